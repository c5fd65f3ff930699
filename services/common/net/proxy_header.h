#ifndef QWENSERVE_SERVICES_COMMON_NET_PROXY_HEADER_H_
#define QWENSERVE_SERVICES_COMMON_NET_PROXY_HEADER_H_

#include <cstddef>
#include <optional>

#include "absl/strings/string_view.h"
#include "services/common/net/ip_address.h"

namespace qwenserve {

// What a proxy sends before a connection's own bytes, version 1 (a line of text) or 2 (binary):
// https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
struct ProxyHeader {
  enum class State { kIncomplete, kComplete, kMalformed };
  State state = State::kIncomplete;
  // When complete: how long it is, and whom the proxy speaks for; nullopt: itself.
  size_t bytes = 0;
  std::optional<IpAddress> client;
};

// A longer header is malformed.
inline constexpr size_t kMaxProxyHeaderBytes = 536;

// `start`: the first bytes of a connection, which may be followed by others.
ProxyHeader ParseProxyHeader(absl::string_view start);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_NET_PROXY_HEADER_H_
