#include "services/gateway/http/http_server.h"

#include <sys/socket.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <utility>

#include "engine/base/status_macros.h"
#include "services/common/net/unique_fd.h"
#include "services/gateway/http/http_connection.h"

namespace qwenserve {
namespace {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;

// On the loop's thread.
void Open(const std::shared_ptr<HttpLoop>& loop, UniqueFd fd, std::string peer) {
  sockaddr_storage local{};
  socklen_t length = sizeof(local);
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&local), &length) != 0) return;
  boost::system::error_code error;
  Tcp::socket socket(loop->io());
  socket.assign(local.ss_family == AF_INET6 ? Tcp::v6() : Tcp::v4(), fd.get(), error);
  if (error) {
    shutdown(fd.get(), SHUT_RDWR);  // seen by the accept loop, which counts the connection
    return;
  }
  fd.release();
  socket.non_blocking(true, error);
  SslHandle ssl;
  if (TlsServerContext* tls = loop->shared().tls.get()) {
    ssl = tls->NewConnection();
    if (ssl == nullptr) {
      socket.shutdown(Tcp::socket::shutdown_both, error);
      return;
    }
  }
  std::make_shared<HttpConnection>(loop, HttpSocket(std::move(socket), std::move(ssl)),
                                   std::move(peer))
      ->Start();
}

}  // namespace

HttpServer::HttpServer(const Options& options, HttpApplication* application,
                       std::unique_ptr<TlsServerContext> tls)
    : shared_(std::make_shared<HttpShared>(options.limits, application, std::move(tls),
                                           options.accept.trusted_proxies)) {
  for (int i = 0; i < options.threads; ++i) {
    loops_.push_back(std::make_shared<HttpLoop>(shared_));
    loops_.back()->StartTicking();
    threads_.emplace_back([loop = loops_.back()] { loop->io().run(); });
  }
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(ListenSocket socket,
                                                              const Options& options,
                                                              HttpApplication* application) {
  std::unique_ptr<TlsServerContext> tls;
  if (options.tls != nullptr) {
    QS_ASSIGN_OR_RETURN(tls, TlsServerContext::Create(*options.tls, "http/1.1"));
  }
  std::unique_ptr<HttpServer> server(new HttpServer(options, application, std::move(tls)));
  QS_ASSIGN_OR_RETURN(server->accept_loop_,
                      AcceptLoop::Start(std::move(socket), options.accept,
                                        [raw = server.get()](int fd, const std::string& peer) {
                                          raw->Accept(fd, peer);
                                        }));
  return server;
}

HttpServer::~HttpServer() {
  if (accept_loop_ != nullptr) accept_loop_->StopAccepting();
  for (const auto& loop : loops_) {
    // Without connections and timer the loop has nothing to do, and its thread ends.
    asio::post(loop->io(), [loop] {
      loop->CloseAll();
      loop->StopTicking();
    });
  }
  for (std::thread& thread : threads_) thread.join();
}

void HttpServer::Accept(int fd, const std::string& peer) {
  const auto& loop = loops_[next_loop_.fetch_add(1) % loops_.size()];
  asio::post(loop->io(), [loop, fd = UniqueFd(fd), peer]() mutable {
    Open(loop, std::move(fd), std::move(peer));
  });
}

void HttpServer::Drain() { shared_->draining = true; }

void HttpServer::StopAccepting() {
  Drain();
  accept_loop_->StopAccepting();
  for (const auto& loop : loops_) asio::post(loop->io(), [loop] { loop->CloseIdle(); });
}

void HttpServer::CloseAll() {
  for (const auto& loop : loops_) asio::post(loop->io(), [loop] { loop->CloseAll(); });
}

}  // namespace qwenserve
