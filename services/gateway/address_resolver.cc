#include "services/gateway/address_resolver.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/status_macros.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

struct HostPort {
  std::string host;
  std::string port;
};

absl::StatusOr<HostPort> Split(const std::string& name) {
  const size_t colon = name.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(name.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("'", name, "' is not HOST:PORT"));
  }
  HostPort result = {name.substr(0, colon), name.substr(colon + 1)};
  if (result.host.front() == '[' && result.host.back() == ']') {
    result.host = result.host.substr(1, result.host.size() - 2);
  }
  return result;
}

// Numeric, as gRPC takes it; nullopt for what is neither IPv4 nor IPv6.
std::optional<std::string> ToTarget(const addrinfo& info) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (getnameinfo(info.ai_addr, info.ai_addrlen, host, sizeof(host), port, sizeof(port),
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return std::nullopt;
  }
  if (info.ai_family == AF_INET) return absl::StrCat("ipv4:", host, ":", port);
  if (info.ai_family != AF_INET6) return std::nullopt;
  // The zone of a link-local address is written with % in a URI.
  const std::string escaped = absl::StrCat("ipv6:[", host, "]:", port);
  const size_t zone = escaped.find('%');
  return zone == std::string::npos ? escaped : std::string(escaped).insert(zone + 1, "25");
}

}  // namespace

absl::Status CheckAddress(const std::string& name) {
  if (absl::StartsWith(name, "unix:")) return absl::OkStatus();
  return Split(name).status();
}

absl::StatusOr<std::vector<std::string>> SystemLookup(const std::string& name) {
  if (absl::StartsWith(name, "unix:")) return std::vector<std::string>{name};
  QS_ASSIGN_OR_RETURN(const HostPort split, Split(name));
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (int error = getaddrinfo(split.host.c_str(), split.port.c_str(), &hints, &list); error != 0) {
    return absl::UnavailableError(absl::StrCat("'", name, "': ", gai_strerror(error)));
  }
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, freeaddrinfo);
  std::vector<std::string> targets;
  for (const addrinfo* info = list; info != nullptr; info = info->ai_next) {
    if (std::optional<std::string> target = ToTarget(*info)) targets.push_back(*target);
  }
  return targets;
}

AddressResolver::AddressResolver(std::vector<std::string> names, absl::Duration interval,
                                 Lookup lookup, OnAddresses on_addresses)
    : names_(std::move(names)),
      interval_(interval),
      lookup_(std::move(lookup)),
      on_addresses_(std::move(on_addresses)),
      thread_([this] { Run(); }) {}

AddressResolver::~AddressResolver() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void AddressResolver::Run() {
  std::vector<std::string> current;
  bool first = true;
  while (true) {
    std::vector<std::string> addresses = ResolveAll();
    if (first || addresses != current) on_addresses_(addresses);
    first = false;
    current = std::move(addresses);
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&stop_), interval_)) return;
  }
}

std::vector<std::string> AddressResolver::ResolveAll() {
  std::set<std::string> all;
  for (const std::string& name : names_) {
    absl::StatusOr<std::vector<std::string>> addresses = lookup_(name);
    std::vector<std::string>& good = last_good_[name];
    if (addresses.ok() && !addresses->empty()) {
      good = *std::move(addresses);
    } else {
      spdlog::debug("{} does not resolve ({}), its last {} addresses stay", name,
                    addresses.ok() ? "no addresses" : std::string(addresses.status().message()),
                    good.size());
    }
    all.insert(good.begin(), good.end());
  }
  return {all.begin(), all.end()};
}

}  // namespace qwenserve
