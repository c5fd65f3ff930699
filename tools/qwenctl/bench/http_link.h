#ifndef QWENSERVE_TOOLS_QWENCTL_BENCH_HTTP_LINK_H_
#define QWENSERVE_TOOLS_QWENCTL_BENCH_HTTP_LINK_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ssl/context.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/ssl/ssl_stream.hpp"
#include "tools/qwenctl/connection.h"

namespace qwenserve {

// What links over TLS have in common. The server's name is compared with its certificate.
class HttpTls {
 public:
  // INVALID_ARGUMENT names the flag whose file is not right.
  static absl::StatusOr<std::unique_ptr<HttpTls>> Create(const Connection& connection);

 private:
  friend class HttpLink;
  boost::asio::ssl::context context_{boost::asio::ssl::context::tls_client};
  std::string server_name_;
};

// A connection, kept for the next request when it can be.
class HttpLink {
 public:
  using TlsStream = boost::beast::ssl_stream<boost::beast::tcp_stream>;

  // `tls` is null without TLS, else it outlives the link.
  HttpLink(boost::asio::io_context& loop, HttpTls* tls);

  boost::beast::tcp_stream& tcp() { return tls_ ? tls_->next_layer() : *tcp_; }
  // Null without TLS. Its handshake comes after the connect.
  TlsStream* tls() { return tls_ ? &*tls_ : nullptr; }
  // Calls use(stream) with the stream that requests are written to.
  template <typename Use>
  void With(Use use) {
    tls_ ? use(*tls_) : use(*tcp_);
  }

  boost::beast::flat_buffer buffer;
  bool connected = false;

 private:
  std::optional<boost::beast::tcp_stream> tcp_;
  std::optional<TlsStream> tls_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BENCH_HTTP_LINK_H_
