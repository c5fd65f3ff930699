#include "services/gateway/workers/worker_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

constexpr size_t kMaxEntries = 10000;
constexpr absl::string_view kFile = "file:";

absl::Status Malformed(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not HOST:PORT"));
}

bool HasSpace(absl::string_view text) {
  for (char c : text) {
    if (static_cast<unsigned char>(c) <= ' ') return true;
  }
  return false;
}

}  // namespace

std::optional<std::string> NumericTarget(const std::string& ip, int port) {
  unsigned char bytes[sizeof(in6_addr)];
  if (inet_pton(AF_INET, ip.c_str(), bytes) == 1) return absl::StrCat("ipv4:", ip, ":", port);
  // A zone, which inet_pton does not take, is written with % in a URI.
  const size_t zone = ip.find('%');
  if (inet_pton(AF_INET6, ip.substr(0, zone).c_str(), bytes) != 1) return std::nullopt;
  const std::string escaped =
      zone == std::string::npos ? ip : absl::StrCat(ip.substr(0, zone), "%25", ip.substr(zone + 1));
  return absl::StrCat("ipv6:[", escaped, "]:", port);
}

absl::StatusOr<WorkerAddress> ParseWorkerAddress(absl::string_view text) {
  WorkerAddress address;
  if (text.empty() || HasSpace(text)) return Malformed(text);
  if (absl::StartsWith(text, "unix:")) {
    address.target = std::string(text);
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(text.substr(colon + 1), &address.port) || address.port < 1 ||
      address.port > 65535) {
    return Malformed(text);
  }
  absl::string_view host = text.substr(0, colon);
  const bool brackets = host.front() == '[' && host.back() == ']';
  if (brackets) host = host.substr(1, host.size() - 2);
  address.host = std::string(host);
  if (std::optional<std::string> target = NumericTarget(address.host, address.port)) {
    address.target = *target;
  } else if (host.empty() || brackets || absl::StrContains(host, ":")) {
    return Malformed(text);
  }
  return address;
}

absl::StatusOr<std::vector<WorkerAddress>> ParseWorkerList(absl::string_view text) {
  std::vector<WorkerAddress> list;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    absl::StatusOr<WorkerAddress> address = ParseWorkerAddress(line.substr(0, 300));
    if (!address.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": ", address.status().message()));
    }
    if (list.size() == kMaxEntries) {
      return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxEntries, " addresses"));
    }
    list.push_back(*std::move(address));
  }
  if (list.empty()) return absl::InvalidArgumentError("has no address");
  return list;
}

std::optional<std::string> FileOfSource(const std::string& source) {
  if (!absl::StartsWith(source, kFile)) return std::nullopt;
  return source.substr(kFile.size());
}

absl::Status CheckWorkerSource(const std::string& source) {
  if (std::optional<std::string> path = FileOfSource(source)) {
    return path->empty() ? absl::InvalidArgumentError("'file:' without a path") : absl::OkStatus();
  }
  return ParseWorkerAddress(source).status();
}

}  // namespace qwenserve
