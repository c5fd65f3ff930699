#ifndef QWENSERVE_SERVICES_COMMON_NET_LISTEN_SOCKET_H_
#define QWENSERVE_SERVICES_COMMON_NET_LISTEN_SOCKET_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/common/net/unique_fd.h"

namespace qwenserve {

struct ListenSocket {
  UniqueFd fd;          // non-blocking, close-on-exec
  std::string address;  // numeric HOST:PORT with the port in use
  bool loopback = false;
};

// Binds "HOST:PORT", "[V6]:PORT" or ":PORT" (all interfaces); port 0 takes any free one. Clients
// are refused until whoever takes the socket over listens. Sets SO_REUSEADDR, so that a restart
// does not wait for old connections to expire. INVALID_ARGUMENT for a malformed address,
// UNAVAILABLE when it cannot be bound.
absl::StatusOr<ListenSocket> BindSocket(absl::string_view address);

// INVALID_ARGUMENT for what BindSocket would call malformed. Resolves nothing.
absl::Status CheckHostPort(absl::string_view address);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_NET_LISTEN_SOCKET_H_
