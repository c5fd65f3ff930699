#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_CONNECTION_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_CONNECTION_H_

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "services/gateway/http/http_application.h"
#include "services/gateway/http/http_body.h"
#include "services/gateway/http/http_loop.h"
#include "services/gateway/http/http_socket.h"
#include "services/gateway/http/read_pace.h"

namespace qwenserve {

// One HTTP/1.1 connection: reads a request within its limits, has it answered, goes on with the
// next. Requests that come before the answer of the one before wait in the buffer (pipelining).
//
// While a request is answered the socket is still watched: a client that closes its connection, or
// only its side of it, is taken to be gone.
//
// Kept alive by its loop until it is closed. On its loop's thread, but for Post.
class HttpConnection final : public HttpExchange,
                             public std::enable_shared_from_this<HttpConnection> {
 public:
  using Time = std::chrono::steady_clock::time_point;

  HttpConnection(std::shared_ptr<HttpLoop> loop, HttpSocket socket, std::string peer);

  void Start();

  Time deadline() const { return deadline_; }
  void OnDeadline();
  void CloseIfIdle();

  void Respond(HttpResponse response) override;
  void StartStream(HttpResponse head) override;
  void Send(absl::string_view bytes, bool last) override;
  void Abandon() override;
  void Post(std::function<void()> work) override;

 private:
  enum class State { kHandshaking, kReading, kBusy, kLingering, kClosed };
  using Parser = boost::beast::http::request_parser<BudgetedBody>;

  void Watch();
  void OnReadable();
  // False: not yet, or never.
  bool FinishHandshake();
  // Bytes read, 0 when there is nothing yet, nullopt when there will be nothing more.
  std::optional<size_t> ReadSome(size_t limit);
  void Feed();
  void BeginRequest();
  // False: the request is refused.
  bool TakeHead();
  std::optional<HttpResponse> CheckHead();
  void OnParseError(const boost::system::error_code& error);
  void Dispatch();
  // Answers and closes: what follows in the connection cannot be understood any more.
  void Refuse(HttpResponse response);

  void WriteSome();
  void OnWritten(const boost::system::error_code& error, size_t bytes);
  void FinishAnswer();
  void Linger();
  void ClientGone(bool slow = false);
  void Close();

  void SetDeadline(std::chrono::milliseconds delay) {
    deadline_ = std::chrono::steady_clock::now() + delay;
  }
  const HttpLimits& limits() const { return loop_->shared().limits; }

  const std::shared_ptr<HttpLoop> loop_;
  HttpSocket socket_;
  const std::string peer_;
  State state_ = State::kReading;
  Time deadline_ = Time::max();
  bool watching_ = false;

  boost::beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  bool head_taken_ = false;
  HttpRequest request_;  // its head is filled first
  bool keep_alive_ = false;
  bool http10_ = false;
  bool head_only_ = false;  // HEAD

  std::shared_ptr<HttpHandler> handler_;
  bool counted_busy_ = false;
  std::optional<HttpResponse> stream_head_;  // until the first Send
  std::string out_head_;
  std::string out_body_;
  HttpSocket::Buffers out_;
  bool writing_ = false;
  std::optional<ReadPace> pace_;  // of this answer
  bool last_ = false;             // what is written ends the answer
  size_t lingered_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_CONNECTION_H_
