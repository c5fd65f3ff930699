#include "services/gateway/http/http_connection.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/gateway/http/forwarded_for.h"

namespace qwenserve {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr size_t kReadBytes = 16 << 10;
// Reads in a row, before other connections get their turn.
constexpr int kReadsPerTurn = 16;
// What may wait behind the request that is being answered.
constexpr size_t kMaxPipelinedBytes = 16 << 10;
// Of a refused request, so that its client can read the answer.
constexpr size_t kMaxLingerBytes = 32 << 20;
// What is left of a chunked body is never shorter: "0", CRLF, CRLF. When it has seen the size of
// the last chunk, Beast's parser relies on getting so much, and aborts otherwise.
constexpr size_t kShortestChunkedRest = 5;

}  // namespace

HttpConnection::HttpConnection(std::shared_ptr<HttpLoop> loop, HttpSocket socket, std::string peer)
    : loop_(std::move(loop)),
      socket_(std::move(socket)),
      peer_(std::move(peer)),
      // Room for a header, or the line of a chunk's size, and a read beyond it.
      buffer_(loop_->shared().limits.max_header_bytes + kReadBytes + kMaxPipelinedBytes) {}

void HttpConnection::Start() {
  loop_->Add(shared_from_this());
  if (socket_.ssl() != nullptr) state_ = State::kHandshaking;
  SetDeadline(socket_.ssl() != nullptr ? limits().handshake_timeout : limits().idle_timeout);
  Watch();
}

void HttpConnection::Post(std::function<void()> work) {
  // Weakly, so that work that is never run keeps nothing alive.
  asio::post(loop_->io(), [weak = weak_from_this(), work = std::move(work)] {
    auto self = weak.lock();
    if (self != nullptr && self->state_ != State::kClosed) work();
  });
}

void HttpConnection::Watch() {
  if (std::exchange(watching_, true)) return;
  socket_.AsyncWait([self = shared_from_this()] {
    self->watching_ = false;
    self->OnReadable();
  });
}

std::optional<size_t> HttpConnection::ReadSome(size_t limit) {
  beast::error_code error;
  // Beyond its maximum the buffer would throw.
  limit = std::min(limit, buffer_.max_size() - buffer_.size());
  const size_t bytes = socket_.ReadSome(buffer_.prepare(limit), &error);
  if (error == asio::error::would_block || error == asio::error::interrupted) return 0;
  if (error) return std::nullopt;
  buffer_.commit(bytes);
  return bytes;
}

bool HttpConnection::FinishHandshake() {
  const beast::error_code error = socket_.Handshake();
  if (error == asio::error::would_block) return false;
  if (error || !loop_->shared().tls->Admits(socket_.ssl())) {
    ++loop_->shared().counters.handshakes_failed;
    Close();
    return false;
  }
  state_ = State::kReading;
  SetDeadline(limits().idle_timeout);
  return true;
}

void HttpConnection::OnReadable() {
  if (state_ == State::kHandshaking && !FinishHandshake()) {
    if (state_ != State::kClosed) Watch();
    return;
  }
  switch (state_) {
    case State::kHandshaking:
      return;
    case State::kReading:
      for (int i = 0; i < kReadsPerTurn && state_ == State::kReading; ++i) {
        const std::optional<size_t> bytes = ReadSome(kReadBytes);
        if (!bytes.has_value()) return Close();
        if (*bytes == 0) break;
        Feed();
      }
      break;
    case State::kBusy: {
      if (buffer_.size() >= kMaxPipelinedBytes) return;  // until the answer is complete
      const std::optional<size_t> bytes = ReadSome(kMaxPipelinedBytes);
      if (bytes.has_value()) break;
      if (!last_) return ClientGone();
      keep_alive_ = false;  // the answer is on its way, and the client may still read it
      return;
    }
    case State::kLingering: {
      buffer_.consume(buffer_.size());
      const std::optional<size_t> bytes = ReadSome(kReadBytes);
      lingered_ += bytes.value_or(0);
      if (!bytes.has_value() || lingered_ > kMaxLingerBytes) return Close();
      break;
    }
    case State::kClosed:
      return;
  }
  if (state_ != State::kClosed) Watch();
}

void HttpConnection::BeginRequest() {
  parser_.emplace();
  parser_->header_limit(limits().max_header_bytes);
  parser_->body_limit(limits().max_body_bytes);
  parser_->get().body().SetBudget(loop_->shared().budget);
  head_taken_ = false;
  request_ = HttpRequest();
  SetDeadline(limits().header_timeout);
}

void HttpConnection::Feed() {
  while (state_ == State::kReading && buffer_.size() > 0) {
    if (!parser_.has_value()) BeginRequest();
    if (head_taken_ && parser_->chunked() && buffer_.size() < kShortestChunkedRest) return;
    beast::error_code error;
    const size_t used = parser_->put(buffer_.data(), error);
    buffer_.consume(used);
    if (error == http::error::need_more) {
      if (buffer_.size() + kReadBytes <= buffer_.max_size()) return;
      error = http::error::header_limit;  // the line of a chunk's size without an end
    }
    if (error) return OnParseError(error);
    if (parser_->is_header_done() && !head_taken_ && !TakeHead()) return;
    if (parser_->is_done()) return Dispatch();
  }
}

void HttpConnection::OnParseError(const beast::error_code& error) {
  HttpApplication& application = *loop_->shared().application;
  if (error == http::error::header_limit) {
    return Refuse(application.Error(
        431, absl::StrCat("header fields are longer than ", limits().max_header_bytes, " bytes")));
  }
  if (error == http::error::body_limit) {
    return Refuse(application.Error(
        413, absl::StrCat("the body is longer than ", limits().max_body_bytes, " bytes")));
  }
  if (error == boost::system::errc::not_enough_memory) {
    HttpResponse response =
        application.Error(503, "too many request bodies are being received, try again");
    response.headers.emplace_back("Retry-After", "1");
    return Refuse(std::move(response));
  }
  ++loop_->shared().counters.malformed;
  // The texts of the parser's errors hold nothing of the request.
  Refuse(application.Error(400, absl::StrCat("not HTTP/1.1: ", error.message())));
}

bool HttpConnection::TakeHead() {
  head_taken_ = true;
  parser_->eager(true);
  const auto& message = parser_->get();
  request_.head = message.base();
  request_.peer = ForwardedPeer(loop_->shared().trusted_proxies, peer_, request_.head);
  const beast::string_view target = message.target();
  request_.path = PathOfTarget(absl::string_view(target.data(), target.size()));
  http10_ = message.version() < 11;
  keep_alive_ = message.keep_alive();
  head_only_ = message.method() == http::verb::head;
  if (std::optional<HttpResponse> refused = CheckHead()) {
    // A body that follows is not read, so nothing behind it can be either.
    if (!parser_->is_done()) keep_alive_ = false;
    Refuse(*std::move(refused));
    return false;
  }
  SetDeadline(limits().body_timeout);
  if (!parser_->is_done() && !request_.header("expect").empty()) {
    const absl::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    beast::error_code error;
    // Nothing else is being written, so there is room for it.
    if (socket_.WriteSome({asio::buffer(go_on.data(), go_on.size())}, &error) != go_on.size()) {
      Close();
      return false;
    }
  }
  return true;
}

std::optional<HttpResponse> HttpConnection::CheckHead() {
  const auto& message = parser_->get();
  HttpApplication& application = *loop_->shared().application;
  auto malformed = [&](int status, absl::string_view text) {
    ++loop_->shared().counters.malformed;
    keep_alive_ = false;
    return application.Error(status, text);
  };
  // Two readings of one request, here and at a proxy, are how requests are smuggled: what is not
  // plain is refused. Length together with encoding the parser refuses itself.
  const size_t encodings = message.count(http::field::transfer_encoding);
  const absl::string_view encoding = request_.header("transfer-encoding");
  if (encodings > 0 && (encodings > 1 || http10_ || !absl::EqualsIgnoreCase(encoding, "chunked"))) {
    return malformed(501, "the only transfer encoding is chunked");
  }
  if (message.count(http::field::content_length) > 1) return malformed(400, "two Content-Lengths");
  const size_t hosts = message.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && !http10_)) return malformed(400, "exactly one Host is needed");
  if (request_.path.empty()) return malformed(400, "the target is not a path");
  const absl::string_view expect = request_.header("expect");
  if (!expect.empty() && !absl::EqualsIgnoreCase(expect, "100-continue")) {
    return malformed(417, "the only expectation is 100-continue");
  }
  return application.Refuse(request_);
}

void HttpConnection::Dispatch() {
  request_.body = parser_->get().body().TakeText();
  request_.charge = parser_->get().body().charge();
  parser_.reset();
  state_ = State::kBusy;
  counted_busy_ = true;
  ++loop_->shared().counters.busy;
  ++loop_->shared().counters.requests;
  SetDeadline(limits().quiet_interval);
  HttpRequest request = std::exchange(request_, HttpRequest());
  handler_ = loop_->shared().application->Handle(std::move(request), shared_from_this());
}

void HttpConnection::Refuse(HttpResponse response) {
  // A request that was read to its end leaves the connection in order.
  const bool complete = parser_.has_value() && head_taken_ && parser_->is_done();
  if (!complete) keep_alive_ = false;
  if (!head_taken_) head_only_ = false;
  parser_.reset();
  state_ = State::kBusy;
  Respond(std::move(response));
}

void HttpConnection::Respond(HttpResponse response) {
  if (state_ != State::kBusy || writing_) return;
  if (loop_->shared().draining) keep_alive_ = false;
  out_body_ = std::move(response.body);
  out_head_ = SerializeHead(response, HttpFraming::kLength, out_body_.size(), keep_alive_);
  if (head_only_) out_body_.clear();
  out_ = {asio::buffer(out_head_), asio::buffer(out_body_), asio::const_buffer()};
  last_ = true;
  WriteSome();
}

void HttpConnection::StartStream(HttpResponse head) { stream_head_ = std::move(head); }

void HttpConnection::Send(absl::string_view bytes, bool last) {
  if (state_ != State::kBusy || writing_) return;
  out_head_.clear();
  const HttpFraming framing = http10_ ? HttpFraming::kUntilClose : HttpFraming::kChunked;
  if (framing == HttpFraming::kUntilClose) keep_alive_ = false;
  if (stream_head_.has_value()) {
    if (loop_->shared().draining) keep_alive_ = false;
    out_head_ = SerializeHead(*stream_head_, framing, 0, keep_alive_);
    stream_head_.reset();
  }
  absl::string_view tail;
  if (framing == HttpFraming::kChunked) {
    // An empty chunk would end the body.
    if (!bytes.empty()) {
      absl::StrAppend(&out_head_, absl::Hex(bytes.size()), "\r\n");
      tail = last ? "\r\n0\r\n\r\n" : "\r\n";
    } else if (last) {
      tail = "0\r\n\r\n";
    }
  }
  out_ = {asio::buffer(out_head_), asio::const_buffer(bytes.data(), bytes.size()),
          asio::const_buffer(tail.data(), tail.size())};
  last_ = last;
  WriteSome();
}

void HttpConnection::WriteSome() {
  writing_ = true;
  if (!pace_.has_value()) pace_.emplace(limits().write_timeout, limits().min_read_rate);
  deadline_ = pace_->Offer(std::chrono::steady_clock::now());
  socket_.AsyncWriteSome(out_, [self = shared_from_this()](beast::error_code error, size_t bytes) {
    self->OnWritten(error, bytes);
  });
}

void HttpConnection::OnWritten(const beast::error_code& error, size_t bytes) {
  if (state_ == State::kClosed) return;
  writing_ = false;
  if (error) return ClientGone();
  pace_->Taken(bytes, std::chrono::steady_clock::now());
  size_t left = 0;
  for (asio::const_buffer& part : out_) {
    const size_t taken = std::min(bytes, part.size());
    part += taken;
    bytes -= taken;
    left += part.size();
  }
  if (left > 0) return WriteSome();
  if (last_) return FinishAnswer();
  SetDeadline(limits().quiet_interval);
  // It may answer to its end within.
  const std::shared_ptr<HttpHandler> handler = handler_;
  if (handler != nullptr) handler->OnSent();
}

void HttpConnection::FinishAnswer() {
  handler_.reset();
  pace_.reset();
  last_ = false;
  // Long answers must not stay with a connection that waits for its next request.
  out_head_ = std::string();
  out_body_ = std::string();
  if (std::exchange(counted_busy_, false)) --loop_->shared().counters.busy;
  if (!keep_alive_ || loop_->shared().draining) return Linger();
  state_ = State::kReading;
  SetDeadline(limits().idle_timeout);
  if (buffer_.size() == 0) buffer_.shrink_to_fit();
  Feed();
  if (state_ != State::kClosed) Watch();
}

void HttpConnection::Linger() {
  state_ = State::kLingering;
  SetDeadline(limits().linger_timeout);
  socket_.ShutdownSend();
  Watch();
}

void HttpConnection::OnDeadline() {
  switch (state_) {
    case State::kHandshaking:
      ++loop_->shared().counters.timeouts;
      return Close();
    case State::kReading:
      if (!parser_.has_value()) return Close();  // idle
      ++loop_->shared().counters.timeouts;
      return Refuse(loop_->shared().application->Error(
          408, head_taken_ ? "the body took too long" : "the header took too long"));
    case State::kBusy: {
      if (writing_) {
        ++loop_->shared().counters.timeouts;
        return ClientGone(/*slow=*/true);
      }
      SetDeadline(limits().quiet_interval);
      const std::shared_ptr<HttpHandler> handler = handler_;
      if (handler != nullptr) handler->OnQuiet();
      return;
    }
    case State::kLingering:
      return Close();
    case State::kClosed:
      return;
  }
}

void HttpConnection::CloseIfIdle() {
  if (state_ == State::kHandshaking) return Close();
  if (state_ == State::kReading && !parser_.has_value()) Close();
}

void HttpConnection::Abandon() {
  if (state_ == State::kBusy) {
    ClientGone();
  } else {
    Close();
  }
}

void HttpConnection::ClientGone(bool slow) {
  ++loop_->shared().counters.abandoned;
  const std::shared_ptr<HttpHandler> handler = std::move(handler_);
  Close();
  if (handler == nullptr) return;
  if (slow) {
    handler->OnSlowClient();
  } else {
    handler->OnClientGone();
  }
}

void HttpConnection::Close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  deadline_ = Time::max();
  if (std::exchange(counted_busy_, false)) --loop_->shared().counters.busy;
  handler_.reset();
  parser_.reset();
  socket_.Close();
  loop_->Remove(this);
}

}  // namespace qwenserve
