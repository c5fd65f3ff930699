#include "services/gateway/http/generate_handler.h"

#include "services/gateway/call/text_util.h"
#include "services/gateway/http/openai_error.h"
#include "services/gateway/http/request_headers.h"

namespace qwenserve {

GenerateHandler::GenerateHandler(Gateway* gateway, std::weak_ptr<HttpExchange> exchange,
                                 Headers headers)
    : gateway_(*gateway),
      exchange_(std::move(exchange)),
      headers_(std::move(headers)),
      id_(RandomId("req-")) {}

void GenerateHandler::Start(HttpRequest request, Parse parse, ParseThread* thread) {
  const std::shared_ptr<HttpExchange> exchange = exchange_.lock();
  if (exchange == nullptr) return;
  Caller caller = FindCaller(request, gateway_.authenticator());
  if (!caller.refusal.ok()) return RespondError(caller.refusal, exchange);
  const absl::StatusOr<absl::Duration> timeout = RequestTimeout(request);
  if (!timeout.ok()) return RespondError(timeout.status(), exchange);
  const absl::Time deadline = MonotonicNow() + *timeout;
  const RequestLimits& limits = gateway_.options().request_limits;
  const size_t bytes = request.body.size();
  if (bytes <= ParseThread::kLongBody) {
    return StartCall(parse(request.body, limits), std::move(caller), deadline, bytes);
  }
  thread->Post([self = shared_from_this(), body = std::move(request.body),
                charge = std::move(request.charge), parse = std::move(parse),
                caller = std::move(caller), deadline, &limits] {
    const std::shared_ptr<HttpExchange> waiting = self->exchange_.lock();
    if (waiting == nullptr) return;
    // std::function wants what it holds to be copyable.
    auto job = std::make_shared<Job>(parse(body, limits));
    waiting->Post([self, job, caller, deadline, charge, bytes = body.size()] {
      self->StartCall(std::move(*job), caller, deadline, bytes);
    });
  });
}

void GenerateHandler::StartCall(Job job, Caller caller, absl::Time deadline, size_t bytes) {
  if (ended_) return;
  stream_ = job.stream;
  answer_ = std::move(job.answer);
  if (job.request.ok()) {
    job.request->id = id_;
    job.request->whole = !job.stream;
  }
  call_ =
      std::make_shared<GenerateCall>(job.method, deadline, gateway_.services(), shared_from_this());
  gateway_.Register(call_);
  call_->Start({std::move(caller), std::move(job.request), bytes});
}

void GenerateHandler::Wake() {
  if (wake_posted_.exchange(true)) return;
  const std::shared_ptr<HttpExchange> exchange = exchange_.lock();
  if (exchange == nullptr) return;
  exchange->Post([self = shared_from_this()] {
    self->wake_posted_ = false;
    self->Pump();
  });
}

void GenerateHandler::Drop() {
  const std::shared_ptr<HttpExchange> exchange = exchange_.lock();
  if (exchange == nullptr) return;
  exchange->Post([self = shared_from_this()] {
    const std::shared_ptr<HttpExchange> open = self->exchange_.lock();
    if (open != nullptr && !self->ended_) open->Abandon();
  });
}

void GenerateHandler::Pump() {
  const std::shared_ptr<HttpExchange> exchange = exchange_.lock();
  if (exchange == nullptr || call_ == nullptr) return;
  if (stream_) {
    PumpStream(exchange);
  } else {
    PumpWhole(exchange);
  }
}

void GenerateHandler::PumpStream(const std::shared_ptr<HttpExchange>& exchange) {
  while (!sending_ && !ended_) {
    GenerateCall::Output output = call_->Next();
    if (std::holds_alternative<std::monostate>(output)) break;
    if (!WriteOutput(std::move(output), exchange)) return;
  }
  if (!sending_ && !ended_ && !buffer_.empty()) SendBuffer(exchange, false);
}

bool GenerateHandler::WriteOutput(GenerateCall::Output output,
                                  const std::shared_ptr<HttpExchange>& exchange) {
  if (auto* started = std::get_if<v1::Started>(&output)) {
    BeginStream(exchange);
    answer_->Begin(std::move(*started));
    answer_->WriteStart(&buffer_);
    call_->Taken();
    return true;
  }
  if (auto* delta = std::get_if<AnswerDelta>(&output)) {
    answer_->WriteDelta(std::move(*delta), &buffer_);
    // Ids without text yet: nothing for this client.
    if (buffer_.empty()) {
      call_->Taken();
      return true;
    }
    delta_sent_ = true;
    SendBuffer(exchange, false);
    return false;
  }
  if (auto* finished = std::get_if<v1::Finished>(&output)) {
    answer_->WriteFinish(*finished, &buffer_);
  } else {
    const absl::Status& status = std::get<absl::Status>(output);
    if (!stream_begun_) {
      RespondError(status, exchange);
      return false;
    }
    buffer_.Event(OpenAiErrorJson(status));
  }
  SendBuffer(exchange, true);
  return false;
}

void GenerateHandler::BeginStream(const std::shared_ptr<HttpExchange>& exchange) {
  if (std::exchange(stream_begun_, true)) return;
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers = headers_;
  head.headers.emplace_back("x-request-id", id_);
  head.headers.emplace_back("Cache-Control", "no-cache");
  head.headers.emplace_back("X-Accel-Buffering", "no");
  exchange->StartStream(std::move(head));
}

void GenerateHandler::SendBuffer(const std::shared_ptr<HttpExchange>& exchange, bool last) {
  sending_ = true;
  if (last) End();
  exchange->Send(buffer_.bytes(), last);
}

void GenerateHandler::PumpWhole(const std::shared_ptr<HttpExchange>& exchange) {
  while (!ended_) {
    GenerateCall::Output output = call_->Next();
    if (std::holds_alternative<std::monostate>(output)) return;
    if (auto* status = std::get_if<absl::Status>(&output)) return RespondError(*status, exchange);
    if (auto* finished = std::get_if<v1::Finished>(&output)) {
      HttpResponse response;
      response.body = answer_->Finish(*finished);
      response.headers = headers_;
      response.headers.emplace_back("x-request-id", id_);
      memory_ = call_->TakeMemory();
      End();
      return exchange->Respond(std::move(response));
    }
    if (auto* started = std::get_if<v1::Started>(&output)) {
      answer_->Begin(std::move(*started));
    } else {
      answer_->Add(std::move(std::get<AnswerDelta>(output)));
    }
    call_->Taken();
  }
}

void GenerateHandler::RespondError(const absl::Status& status,
                                   const std::shared_ptr<HttpExchange>& exchange) {
  HttpResponse response = OpenAiErrorResponse(status);
  response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
  response.headers.emplace_back("x-request-id", id_);
  End();
  exchange->Respond(std::move(response));
}

void GenerateHandler::End() {
  ended_ = true;
  if (call_ == nullptr) return;
  // The last message counts as taken: that it leaves in time is the connection's business.
  call_->Taken();
  call_.reset();
}

void GenerateHandler::OnSent() {
  sending_ = false;
  buffer_.Clear();
  if (call_ != nullptr && std::exchange(delta_sent_, false)) call_->Taken();
  Pump();
}

void GenerateHandler::OnClientGone() {
  ended_ = true;
  // It wakes us before it returns, so it must not be ours any more.
  if (const auto call = std::exchange(call_, nullptr)) {
    call->Abort();
    call->Next();  // its terminal status, which it counts
  }
}

void GenerateHandler::OnSlowClient() {
  ended_ = true;
  if (const auto call = std::exchange(call_, nullptr)) {
    call->AbortSlowClient();
    call->Next();
  } else {
    // The call has ended and is counted as what it was; its answer did not arrive.
    gateway_.metrics().sheds[GatewayMetrics::kShedSlowConsumer]->Increment();
  }
}

void GenerateHandler::OnQuiet() {
  const std::shared_ptr<HttpExchange> exchange = exchange_.lock();
  if (exchange == nullptr || !stream_ || sending_ || ended_ || call_ == nullptr) return;
  BeginStream(exchange);
  buffer_.Comment();
  SendBuffer(exchange, false);
}

}  // namespace qwenserve
