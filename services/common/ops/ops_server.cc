#include "services/common/ops/ops_server.h"

#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace qwenserve {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Tcp = asio::ip::tcp;
using Response = http::response<http::string_body>;

// Of HTTP/2's preface what no request of HTTP/1 begins with. Clients send it in one piece.
constexpr absl::string_view kPreface = "PRI * HTTP/2.0\r\n";

struct Answer {
  http::status status;
  std::string body;
  std::string allow;
};

Answer FromProbe(const absl::Status& status) {
  if (status.ok()) return {http::status::ok, "ok\n", ""};
  return {http::status::service_unavailable, absl::StrCat(status.message(), "\n"), ""};
}

Answer Route(const http::request<http::empty_body>& request, const OpsServer::Handlers& handlers) {
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    return {http::status::method_not_allowed, "only GET and HEAD\n", "GET, HEAD"};
  }
  const beast::string_view path = request.target().substr(0, request.target().find('?'));
  if (path == "/livez") return FromProbe(handlers.live());
  if (path == "/readyz") return FromProbe(handlers.ready());
  if (path == "/metrics") return {http::status::ok, handlers.metrics(), ""};
  return {http::status::not_found, "try /livez, /readyz or /metrics\n", ""};
}

// One connection; owned by its pending operations. All of it runs on the server's thread.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Tcp::socket socket, const OpsServer::Options& options,
          const OpsServer::Handlers& handlers, int* live)
      : stream_(std::move(socket)),
        watch_(stream_.get_executor()),
        options_(options),
        handlers_(handlers),
        live_(live) {
    ++*live_;
  }
  ~Session() { --*live_; }

  // What comes first says which protocol it is.
  void Begin() {
    stream_.expires_after(absl::ToChronoMilliseconds(options_.timeout));
    stream_.async_read_some(buffer_.prepare(options_.max_header_bytes),
                            [self = shared_from_this()](beast::error_code error, size_t size) {
                              if (error) return;
                              self->buffer_.commit(size);
                              const auto data = self->buffer_.cdata();
                              const std::string received(static_cast<const char*>(data.data()),
                                                         data.size());
                              if (absl::StartsWith(received, kPreface))
                                return self->HandOn(received);
                              self->Read();
                            });
  }

 private:
  void Read() {
    parser_.emplace();
    parser_->header_limit(options_.max_header_bytes);
    parser_->body_limit(0);
    stream_.expires_after(absl::ToChronoMilliseconds(options_.timeout));
    http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](beast::error_code error, size_t) { self->OnRead(error); });
  }

  // The connection is another's; a duplicate of its descriptor sees the end of it.
  void HandOn(const std::string& received) {
    if (handlers_.http2 == nullptr) return;
    beast::error_code error;
    Tcp::socket socket = stream_.release_socket();
    const int duplicate = dup(socket.native_handle());
    if (duplicate < 0) return;  // no descriptor is left
    watch_.assign(duplicate, error);
    const int fd = socket.release(error);
    handlers_.http2(fd, received);
    watch_.async_wait(asio::posix::stream_descriptor::wait_error,
                      [self = shared_from_this()](beast::error_code) {});
  }

  void OnRead(beast::error_code error) {
    const bool refused = error == http::error::header_limit || error == http::error::body_limit;
    if (error && !refused) return;  // left, too slow, or no HTTP: nobody to answer
    Answer answer = refused ? Answer{http::status::bad_request, "request too large\n", ""}
                            : Route(parser_->get(), handlers_);
    const bool keep_alive = !refused && parser_->get().keep_alive();
    const bool head = !refused && parser_->get().method() == http::verb::head;
    response_ = Response(answer.status, refused ? 11 : parser_->get().version());
    response_.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    if (!answer.allow.empty()) response_.set(http::field::allow, answer.allow);
    response_.keep_alive(keep_alive);
    response_.body() = std::move(answer.body);
    response_.prepare_payload();
    if (head) response_.body().clear();  // the length stays as GET would have it
    stream_.expires_after(absl::ToChronoMilliseconds(options_.timeout));
    serializer_.emplace(response_);
    auto done = [self = shared_from_this(), keep_alive](beast::error_code failed, size_t) {
      if (!failed && keep_alive) return self->Read();
      beast::error_code ignored;
      self->stream_.socket().shutdown(Tcp::socket::shutdown_send, ignored);
    };
    if (head) {
      http::async_write_header(stream_, *serializer_, std::move(done));
    } else {
      http::async_write(stream_, *serializer_, std::move(done));
    }
  }

  beast::tcp_stream stream_;
  asio::posix::stream_descriptor watch_;
  const OpsServer::Options& options_;
  const OpsServer::Handlers& handlers_;
  int* const live_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::empty_body>> parser_;
  Response response_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
};

}  // namespace

class OpsServer::Impl {
 public:
  Impl(std::string address, const Options& options, Handlers handlers)
      : address_(std::move(address)),
        options_(options),
        handlers_(std::move(handlers)),
        acceptor_(io_),
        rest_(io_) {}

  ~Impl() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Start(ListenSocket socket) {
    beast::error_code error;
    const bool v6 = !socket.address.empty() && socket.address.front() == '[';
    acceptor_.assign(v6 ? Tcp::v6() : Tcp::v4(), socket.fd.get(), error);
    if (!error) {
      socket.fd.release();
      acceptor_.listen(asio::socket_base::max_listen_connections, error);
    }
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address_, ": ", error.message()));
    }
    Accept();
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  const std::string& address() const { return address_; }

 private:
  void Accept() {
    acceptor_.async_accept([this](beast::error_code error, Tcp::socket socket) {
      if (error) return Rest();  // most likely no descriptor is left: they come back
      if (live_ < options_.max_connections) {
        std::make_shared<Session>(std::move(socket), options_, handlers_, &live_)->Begin();
      }
      Accept();
    });
  }

  void Rest() {
    rest_.expires_after(std::chrono::milliseconds(100));
    rest_.async_wait([this](beast::error_code) { Accept(); });
  }

  const std::string address_;
  const Options options_;
  const Handlers handlers_;
  int live_ = 0;  // before io_, which destroys the sessions that count here
  asio::io_context io_{1};
  Tcp::acceptor acceptor_;
  asio::steady_timer rest_;
  std::thread thread_;
};

OpsServer::OpsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
OpsServer::~OpsServer() = default;

absl::StatusOr<std::unique_ptr<OpsServer>> OpsServer::Start(ListenSocket socket,
                                                            const Options& options,
                                                            Handlers handlers) {
  auto impl = std::make_unique<Impl>(socket.address, options, std::move(handlers));
  absl::Status status = impl->Start(std::move(socket));
  if (!status.ok()) return status;
  return std::unique_ptr<OpsServer>(new OpsServer(std::move(impl)));
}

const std::string& OpsServer::address() const { return impl_->address(); }

}  // namespace qwenserve
