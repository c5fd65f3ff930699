#include "services/gateway/http/host_policy.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "services/common/net/ip_address.h"
#include "services/gateway/http/openai_error.h"

namespace qwenserve {
namespace {

// Without port, brackets and the dot that ends a full name.
absl::string_view NameOf(absl::string_view host) {
  if (absl::ConsumePrefix(&host, "[")) return host.substr(0, host.find(']'));
  host = host.substr(0, host.find(':'));
  absl::ConsumeSuffix(&host, ".");
  return host;
}

bool IsLoopback(absl::string_view name) {
  // Browsers look up neither of the two.
  if (absl::EqualsIgnoreCase(name, "localhost") || absl::EndsWithIgnoreCase(name, ".localhost")) {
    return true;
  }
  static const NetworkList* const kLoopback =
      new NetworkList(*NetworkList::Parse({"127.0.0.0/8", "::1"}));
  const std::optional<IpAddress> address = IpAddress::Parse(name);
  return address.has_value() && kLoopback->Contains(*address);
}

bool SameHost(absl::string_view name, absl::string_view allowed) {
  if (absl::EqualsIgnoreCase(name, allowed)) return true;
  const std::optional<IpAddress> one = IpAddress::Parse(name);
  const std::optional<IpAddress> two = IpAddress::Parse(allowed);
  return one.has_value() && two.has_value() && one->ToString() == two->ToString();
}

bool IsHost(absl::string_view text) {
  if (IpAddress::Parse(text).has_value()) return true;
  absl::ConsumePrefix(&text, ".");
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_';
  });
}

}  // namespace

absl::StatusOr<HostPolicy> HostPolicy::Make(Options options) {
  const auto& hosts = options.allowed_hosts;
  const bool off = hosts.size() == 1 && hosts.front() == "*";
  for (const std::string& host : hosts) {
    if (off || IsHost(host)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "--allowed-hosts: '", host, "' is neither a name nor an address, both without a port"));
  }
  HostPolicy policy;
  policy.check_host_ = !off && (!hosts.empty() || (options.loopback && !options.keys));
  policy.check_origin_ = !off && (!hosts.empty() || !options.keys);
  policy.options_ = std::move(options);
  return policy;
}

bool HostPolicy::AllowsHost(absl::string_view host) const {
  const absl::string_view name = NameOf(host);
  if (IsLoopback(name) || SameHost(name, NameOf(options_.listen))) return true;
  for (const std::string& allowed : options_.allowed_hosts) {
    if (absl::StartsWith(allowed, ".") ? absl::EndsWithIgnoreCase(name, allowed)
                                       : SameHost(name, allowed)) {
      return true;
    }
  }
  return false;
}

bool HostPolicy::AllowsOrigin(absl::string_view origin, absl::string_view host) const {
  for (const std::string& allowed : options_.allowed_origins) {
    if (allowed == "*" || allowed == origin) return true;
  }
  // The scheme is left out: a proxy that ends TLS is of the same origin.
  const size_t scheme = origin.find("://");
  return scheme != absl::string_view::npos &&
         absl::EqualsIgnoreCase(origin.substr(scheme + 3), host);
}

std::optional<HttpResponse> HostPolicy::Check(const HttpRequest& request) const {
  const absl::string_view host = request.header("host");
  // Browsers always send one.
  if (check_host_ && !host.empty() && !AllowsHost(host)) {
    return OpenAiErrorResponse(421,
                               "this gateway does not answer under the name in Host; "
                               "--allowed-hosts lets it");
  }
  const absl::string_view origin = request.header("origin");
  if (check_origin_ && !origin.empty() && !AllowsOrigin(origin, host)) {
    return OpenAiErrorResponse(403,
                               "pages of this Origin may not call this gateway; "
                               "--http-allowed-origins lets them");
  }
  return std::nullopt;
}

}  // namespace qwenserve
