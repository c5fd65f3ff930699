#include "services/gateway/http/http_socket.h"

#include <openssl/err.h>

#include <algorithm>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <utility>

namespace qwenserve {
namespace {

namespace asio = boost::asio;

// What one TLS record holds.
constexpr size_t kRecordBytes = 16 << 10;

}  // namespace

HttpSocket::HttpSocket(Tcp::socket socket, SslHandle ssl)
    : socket_(std::move(socket)), ssl_(std::move(ssl)) {
  if (ssl_ != nullptr) SSL_set_fd(ssl_.get(), socket_.native_handle());
}

HttpSocket::Error HttpSocket::ErrorOf(int result) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_NONE:
      return Error();
    case SSL_ERROR_WANT_READ:
      return asio::error::would_block;
    case SSL_ERROR_WANT_WRITE:
      read_waits_to_write_ = true;
      return asio::error::would_block;
    case SSL_ERROR_ZERO_RETURN:
      return asio::error::eof;
    default:
      return asio::error::connection_reset;
  }
}

HttpSocket::Error HttpSocket::Handshake() {
  if (ssl_ == nullptr) return Error();
  ERR_clear_error();
  read_waits_to_write_ = false;
  return ErrorOf(SSL_do_handshake(ssl_.get()));
}

size_t HttpSocket::ReadSome(asio::mutable_buffer buffer, Error* error) {
  if (ssl_ == nullptr) return socket_.read_some(buffer, *error);
  ERR_clear_error();
  read_waits_to_write_ = false;
  const int bytes = SSL_read(ssl_.get(), buffer.data(), static_cast<int>(buffer.size()));
  *error = ErrorOf(bytes);
  return bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

size_t HttpSocket::WriteSome(const Buffers& buffers, Error* error) {
  if (ssl_ == nullptr) return socket_.write_some(buffers, *error);
  // In one record: three would be three packets, each with its own overhead.
  record_.clear();
  for (const asio::const_buffer& part : buffers) {
    const size_t bytes = std::min(part.size(), kRecordBytes - record_.size());
    record_.append(static_cast<const char*>(part.data()), bytes);
  }
  if (record_.empty()) return 0;
  ERR_clear_error();
  const int bytes = SSL_write(ssl_.get(), record_.data(), static_cast<int>(record_.size()));
  // A write that waits says nothing of reading.
  const bool read_waits = read_waits_to_write_;
  *error = ErrorOf(bytes);
  read_waits_to_write_ = read_waits;
  return bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

void HttpSocket::AsyncWriteSome(const Buffers& buffers, std::function<void(Error, size_t)> done) {
  if (ssl_ == nullptr) {
    socket_.async_write_some(buffers, std::move(done));
    return;
  }
  Error error;
  const size_t bytes = WriteSome(buffers, &error);
  if (error == asio::error::would_block) return Retry(buffers, std::move(done));
  asio::post(socket_.get_executor(),
             [done = std::move(done), error, bytes] { done(error, bytes); });
}

void HttpSocket::Retry(const Buffers& buffers, std::function<void(Error, size_t)> done) {
  // The owner's `done` keeps this alive. Without renegotiation a write never waits to read.
  socket_.async_wait(Tcp::socket::wait_write,
                     [this, buffers, done = std::move(done)](Error error) mutable {
                       if (!socket_.is_open()) error = asio::error::operation_aborted;
                       if (error) return done(error, 0);
                       AsyncWriteSome(buffers, std::move(done));
                     });
}

void HttpSocket::AsyncWait(std::function<void()> ready) {
  // What OpenSSL has taken from the socket already wakes nobody.
  if (ssl_ != nullptr && SSL_pending(ssl_.get()) > 0) {
    asio::post(socket_.get_executor(), std::move(ready));
    return;
  }
  socket_.async_wait(read_waits_to_write_ ? Tcp::socket::wait_write : Tcp::socket::wait_read,
                     [ready = std::move(ready)](Error) { ready(); });
}

void HttpSocket::ShutdownSend() {
  if (ssl_ != nullptr && SSL_is_init_finished(ssl_.get())) {
    ERR_clear_error();
    SSL_shutdown(ssl_.get());  // one small record; without room for it the client waits in vain
  }
  Error ignored;
  socket_.shutdown(Tcp::socket::shutdown_send, ignored);
}

void HttpSocket::Close() {
  Error ignored;
  // Whoever counts the connection sees the shutdown, not the close of our descriptor.
  socket_.shutdown(Tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
}

}  // namespace qwenserve
