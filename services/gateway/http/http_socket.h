#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_SOCKET_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_SOCKET_H_

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <string>

#include "services/common/tls/tls_server_context.h"

namespace qwenserve {

// A connected, non-blocking socket, in the clear or with TLS, used by readiness: one wait to read
// and one write at a time. OpenSSL works on the socket itself rather than through asio's stream,
// which knows no waiting without a buffer. On its loop's thread.
class HttpSocket {
 public:
  using Tcp = boost::asio::ip::tcp;
  using Error = boost::system::error_code;
  using Buffers = std::array<boost::asio::const_buffer, 3>;

  // Null `ssl`: in the clear.
  HttpSocket(Tcp::socket socket, SslHandle ssl);

  SSL* ssl() const { return ssl_.get(); }
  // Goes on with the handshake; error would_block: WaitToRead, then again.
  Error Handshake();

  // As many bytes as there are, at least one; would_block when there are none yet, any other error
  // when there will be none.
  size_t ReadSome(boost::asio::mutable_buffer buffer, Error* error);
  // Tries once.
  size_t WriteSome(const Buffers& buffers, Error* error);
  // Some of it, at least one byte. `buffers` stay as they are until `done`, which is never called
  // from within.
  void AsyncWriteSome(const Buffers& buffers, std::function<void(Error, size_t)> done);
  // `ready` is called when reading, or the handshake, may get further; never from within.
  void AsyncWait(std::function<void()> ready);

  // Tells the client that nothing follows.
  void ShutdownSend();
  void Close();

 private:
  Error ErrorOf(int result);
  void Retry(const Buffers& buffers, std::function<void(Error, size_t)> done);

  Tcp::socket socket_;
  SslHandle ssl_;
  bool read_waits_to_write_ = false;
  std::string record_;  // the parts of a write in one piece
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_SOCKET_H_
