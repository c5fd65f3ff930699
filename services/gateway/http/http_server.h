#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_SERVER_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_SERVER_H_

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "services/common/net/accept_loop.h"
#include "services/common/net/listen_socket.h"
#include "services/gateway/http/http_loop.h"

namespace qwenserve {

// HTTP/1.1 for an application, on a few threads of its own; each connection belongs to one of them.
// Connections come through AcceptLoop, which caps them and lives through a shortage of descriptors.
class HttpServer {
 public:
  struct Options {
    HttpLimits limits;
    AcceptLoop::Options accept;
    int threads = 2;
    // Null: in the clear. Outlives the server.
    const TlsMaterial* tls = nullptr;
  };

  // `application` outlives the server. UNAVAILABLE when the socket cannot listen,
  // INVALID_ARGUMENT when the certificates are not taken.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(ListenSocket socket,
                                                           const Options& options,
                                                           HttpApplication* application);
  // Closes every connection; after it nothing of the server calls the application.
  ~HttpServer();

  const std::string& address() const { return accept_loop_->address(); }
  // Requests whose answer is not complete.
  int64_t in_flight() const { return shared_->counters.busy; }
  const HttpCounters& counters() const { return shared_->counters; }
  AcceptLoop::Stats accept_stats() const { return accept_loop_->stats(); }

  // From now on every answer closes its connection.
  void Drain();
  // No new connections; those without a request are closed.
  void StopAccepting();
  // What is still in flight is cut off.
  void CloseAll();

 private:
  HttpServer(const Options& options, HttpApplication* application,
             std::unique_ptr<TlsServerContext> tls);
  void Accept(int fd, const std::string& peer);

  const std::shared_ptr<HttpShared> shared_;
  std::vector<std::shared_ptr<HttpLoop>> loops_;
  std::vector<std::thread> threads_;
  std::atomic<uint64_t> next_loop_{0};
  std::unique_ptr<AcceptLoop> accept_loop_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_SERVER_H_
