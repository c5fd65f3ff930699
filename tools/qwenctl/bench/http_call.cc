#include "tools/qwenctl/bench/http_call.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

}  // namespace

HttpCall::HttpCall(std::unique_ptr<HttpLink> link, Request request, absl::Duration timeout,
                   BenchRecorder::Call recorder, OnEnd on_end)
    : link_(std::move(link)),
      request_(std::move(request)),
      timeout_(timeout),
      recorder_(recorder),
      on_end_(std::move(on_end)) {
  parser_.body_limit(std::numeric_limits<uint64_t>::max());
}

std::string HttpCall::NameOf(Error error) {
  return error == beast::error::timeout ? "DEADLINE_EXCEEDED"
                                        : absl::StrCat("UNAVAILABLE/", error.message());
}

void HttpCall::Start(const boost::asio::ip::tcp::endpoint& endpoint) {
  // One time limit for all of it.
  link_->tcp().expires_after(absl::ToChronoMilliseconds(timeout_));
  if (link_->connected) return Write();
  link_->tcp().async_connect(endpoint, [self = shared_from_this()](Error error) {
    if (error) return self->End(NameOf(error));
    Error ignored;
    self->link_->tcp().socket().set_option(boost::asio::ip::tcp::no_delay(true), ignored);
    self->Handshake();
  });
}

void HttpCall::Handshake() {
  if (link_->tls() == nullptr) {
    link_->connected = true;
    return Write();
  }
  link_->tls()->async_handshake(boost::asio::ssl::stream_base::client,
                                [self = shared_from_this()](Error error) {
                                  if (error) return self->End(NameOf(error));
                                  self->link_->connected = true;
                                  self->Write();
                                });
}

void HttpCall::Cancel() {
  if (ended_) return;
  error_ = "CANCELLED";
  // Not only cancelled: a read that has just ended well would be followed by another one.
  link_->tcp().close();
}

void HttpCall::Write() {
  link_->With([this](auto& stream) {
    http::async_write(stream, request_, [self = shared_from_this()](Error error, size_t) {
      if (error) return self->End(NameOf(error));
      self->ReadHead();
    });
  });
}

void HttpCall::ReadHead() {
  link_->With([this](auto& stream) {
    http::async_read_header(stream, link_->buffer, parser_,
                            [self = shared_from_this()](Error error, size_t) {
                              if (error) return self->End(NameOf(error));
                              const unsigned status = self->parser_.get().result_int();
                              if (status != 200) return self->End(absl::StrCat("HTTP ", status));
                              self->ReadBody();
                            });
  });
}

void HttpCall::ReadBody() {
  parser_.get().body().data = body_.data();
  parser_.get().body().size = body_.size();
  parser_.get().body().more = true;
  link_->With([this](auto& stream) {
    http::async_read_some(stream, link_->buffer, parser_,
                          [self = shared_from_this()](Error error, size_t) {
                            // The place for the body is full: the usual way to hand it out.
                            if (error == http::error::need_buffer) error = {};
                            if (error) return self->End(NameOf(error));
                            self->TakeBody(self->body_.size() - self->parser_.get().body().size);
                          });
  });
}

void HttpCall::TakeBody(size_t bytes) {
  events_.Push(absl::string_view(body_.data(), bytes),
               [this](absl::string_view data) { OnData(data); });
  if (!parser_.is_done()) return ReadBody();
  End(error_.empty() && !stream_done_ ? "UNAVAILABLE/cut off" : error_);
}

void HttpCall::OnData(absl::string_view data) {
  const SseChunk chunk = ReadSseChunk(data);
  if (!chunk.error.empty()) error_ = chunk.error;
  if (chunk.has_text) recorder_.OnTokens(1, BenchNow());
  if (chunk.has_usage) recorder_.OnUsage(chunk.prompt_tokens, chunk.completion_tokens);
  stream_done_ = stream_done_ || chunk.done;
}

void HttpCall::End(const std::string& error) {
  ended_ = true;
  const std::string name = error_.empty() ? error : error_;
  recorder_.OnDone(name, BenchNow());
  link_->tcp().expires_never();
  if (!parser_.is_done() || !parser_.get().keep_alive()) link_ = nullptr;
  const OnEnd on_end = std::move(on_end_);
  on_end(this, std::move(link_));
}

}  // namespace qwenserve
