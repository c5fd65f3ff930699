#ifndef QWENSERVE_SERVICES_COMMON_OPS_OPS_SERVER_H_
#define QWENSERVE_SERVICES_COMMON_OPS_OPS_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/common/net/listen_socket.h"

namespace qwenserve {

// HTTP/1.1 for probes and Prometheus: GET or HEAD of /livez, /readyz and /metrics, nothing that
// changes anything. Plain text, one thread, everything bounded: it may be reached by the whole
// cluster. A connection that begins as HTTP/2 does is handed on.
class OpsServer {
 public:
  struct Options {
    int max_connections = 64;                   // further ones are closed at once
    absl::Duration timeout = absl::Seconds(5);  // for a request to arrive, an answer to leave
    uint32_t max_header_bytes = 8192;
  };

  // Called on the server's thread. A status that is not OK is answered with 503 and its message.
  struct Handlers {
    std::function<absl::Status()> live;
    std::function<absl::Status()> ready;
    std::function<std::string()> metrics;
    // Takes over a connection that begins with HTTP/2's preface, of which `received` has been read.
    // It counts until it is shut down. Null: such connections are closed.
    std::function<void(int fd, const std::string& received)> http2 = nullptr;
  };

  static absl::StatusOr<std::unique_ptr<OpsServer>> Start(ListenSocket socket,
                                                          const Options& options,
                                                          Handlers handlers);
  // Closes every connection.
  ~OpsServer();

  const std::string& address() const;

 private:
  class Impl;
  explicit OpsServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_OPS_OPS_SERVER_H_
