#include "services/gateway/http/generate_handler.h"

#include "absl/strings/str_cat.h"
#include "services/gateway/call/random_draws.h"
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
    return StartCalls(parse(request.body, limits), std::move(caller), deadline, bytes);
  }
  thread->Post([self = shared_from_this(), body = std::move(request.body),
                charge = std::move(request.charge), parse = std::move(parse),
                caller = std::move(caller), deadline, &limits] {
    const std::shared_ptr<HttpExchange> waiting = self->exchange_.lock();
    if (waiting == nullptr) return;
    // std::function wants what it holds to be copyable.
    auto job = std::make_shared<Job>(parse(body, limits));
    waiting->Post([self, job, caller, deadline, charge, bytes = body.size()] {
      self->StartCalls(std::move(*job), caller, deadline, bytes);
    });
  });
}

void GenerateHandler::StartCalls(Job job, Caller caller, absl::Time deadline, size_t bytes) {
  if (ended_) return;
  stream_ = job.stream;
  answer_ = std::move(job.answer);
  std::vector<absl::StatusOr<GenerateRequest>> requests;
  if (job.requests.ok()) {
    for (GenerateRequest& request : *job.requests) {
      request.id = requests.empty() ? id_ : absl::StrCat(id_, "-", requests.size());
      request.whole = !job.stream;
      choices_ = request.n();
      requests.emplace_back(std::move(request));
    }
  } else {
    requests.emplace_back(job.requests.status());
  }
  if (requests.size() > 1) {  // each has a span of its own in this one
    span_ = BeginCallSpan(gateway_.services().tracer, job.method, MonotonicNow(), &caller);
    span_.SetNumber("qwenserve.prompts", static_cast<int64_t>(requests.size()));
  }
  unfinished_ = requests.size();
  parts_.resize(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto call = std::make_shared<GenerateCall>(job.method, deadline, gateway_.services(),
                                                     shared_from_this());
    parts_[i].call = call;
    gateway_.Register(call);
    call->Start({caller, std::move(requests[i]), bytes / requests.size()});
  }
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
  if (exchange == nullptr || parts_.empty()) return;
  if (stream_) {
    PumpStream(exchange);
  } else {
    PumpWhole(exchange);
  }
}

bool GenerateHandler::NextOutput(size_t* part, GenerateCall::Output* output) {
  for (size_t i = 0; i < parts_.size(); ++i) {
    const size_t index = (next_part_ + i) % parts_.size();
    if (parts_[index].call == nullptr) continue;
    *output = parts_[index].call->Next();
    if (std::holds_alternative<std::monostate>(*output)) continue;
    *part = index;
    next_part_ = index + 1;
    return true;
  }
  return false;
}

void GenerateHandler::PumpStream(const std::shared_ptr<HttpExchange>& exchange) {
  size_t part = 0;
  GenerateCall::Output output;
  while (!sending_ && !ended_ && NextOutput(&part, &output)) {
    if (!WriteOutput(part, std::move(output), exchange)) return;
  }
  if (!sending_ && !ended_ && !buffer_.empty()) SendBuffer(exchange, false);
}

bool GenerateHandler::WriteOutput(size_t part, GenerateCall::Output output,
                                  const std::shared_ptr<HttpExchange>& exchange) {
  GenerateCall& call = *parts_[part].call;
  if (auto* started = std::get_if<v1::Started>(&output)) {
    BeginStream(exchange);
    BeginAnswer(part, std::move(*started));
    call.Taken();
    return true;
  }
  if (auto* delta = std::get_if<AnswerDelta>(&output)) {
    delta->choice += static_cast<uint32_t>(part) * choices_;
    answer_->WriteDelta(std::move(*delta), &buffer_);
    // Ids without text yet: nothing for this client.
    if (buffer_.empty()) {
      call.Taken();
      return true;
    }
    delta_sent_ = true;
    delta_part_ = part;
    SendBuffer(exchange, false);
    return false;
  }
  if (auto* finished = std::get_if<v1::Finished>(&output)) {
    if (!Complete(part, std::move(*finished))) return true;
    answer_->WriteFinish(Together(), &buffer_);
  } else {
    const absl::Status status = Shown(part, std::get<absl::Status>(output));
    if (!stream_begun_) {
      RespondError(status, exchange);
      return false;
    }
    buffer_.Event(OpenAiErrorJson(status));
  }
  SendBuffer(exchange, true);
  return false;
}

void GenerateHandler::BeginAnswer(size_t part, v1::Started started) {
  if (std::exchange(answer_begun_, true)) return;
  // As the first part would have it, whichever comes first.
  started.set_request_id(id_);
  started.set_seed(started.seed() - part);
  answer_->Begin(std::move(started));
  if (stream_) answer_->WriteStart(&buffer_);
}

bool GenerateHandler::Complete(size_t part, v1::Finished finished) {
  parts_[part].finished = std::move(finished);
  // The last message counts as taken: that it leaves in time is the connection's business.
  parts_[part].call = nullptr;
  return --unfinished_ == 0;
}

v1::Finished GenerateHandler::Together() const {
  v1::Finished all;
  v1::Usage* usage = all.mutable_usage();
  for (size_t i = 0; i < parts_.size(); ++i) {
    for (const v1::ChoiceFinish& choice : parts_[i].finished->choices()) {
      v1::ChoiceFinish* finish = all.add_choices();
      *finish = choice;
      finish->set_index(static_cast<uint32_t>(i) * choices_ + choice.index());
    }
    const v1::Usage& part = parts_[i].finished->usage();
    usage->set_prompt_tokens(usage->prompt_tokens() + part.prompt_tokens());
    usage->set_cached_prompt_tokens(usage->cached_prompt_tokens() + part.cached_prompt_tokens());
    usage->set_completion_tokens(usage->completion_tokens() + part.completion_tokens());
    usage->set_reasoning_tokens(usage->reasoning_tokens() + part.reasoning_tokens());
  }
  return all;
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
  size_t index = 0;
  GenerateCall::Output output;
  while (!ended_ && NextOutput(&index, &output)) {
    Part& part = parts_[index];
    if (auto* status = std::get_if<absl::Status>(&output)) {
      return RespondError(Shown(index, *status), exchange);
    }
    if (auto* finished = std::get_if<v1::Finished>(&output)) {
      part.memory = part.call->TakeMemory();
      if (!Complete(index, std::move(*finished))) continue;
      HttpResponse response;
      response.body = answer_->Finish(Together());
      response.headers = headers_;
      response.headers.emplace_back("x-request-id", id_);
      End();
      return exchange->Respond(std::move(response));
    }
    if (auto* started = std::get_if<v1::Started>(&output)) {
      BeginAnswer(index, std::move(*started));
    } else {
      AnswerDelta& delta = std::get<AnswerDelta>(output);
      delta.choice += static_cast<uint32_t>(index) * choices_;
      answer_->Add(std::move(delta));
    }
    part.call->Taken();
  }
}

absl::Status GenerateHandler::Shown(size_t part, const absl::Status& status) const {
  return parts_.size() > 1 ? OfPrompt(status, part) : status;
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
  span_.End();
  // Of what has not ended nobody hears any more.
  for (Part& part : parts_) {
    if (const auto call = std::exchange(part.call, nullptr)) {
      call->Abort();
      call->Next();  // its terminal status, which it counts
    }
  }
}

void GenerateHandler::OnSent() {
  sending_ = false;
  buffer_.Clear();
  if (std::exchange(delta_sent_, false) && parts_[delta_part_].call != nullptr) {
    parts_[delta_part_].call->Taken();
  }
  Pump();
}

void GenerateHandler::OnClientGone() { End(); }

void GenerateHandler::OnSlowClient() {
  // A call that has ended is counted as what it was, but its answer does not arrive.
  if (ended_) gateway_.metrics().sheds[GatewayMetrics::kShedSlowConsumer]->Increment();
  for (Part& part : parts_) {
    if (part.call != nullptr) part.call->AbortSlowClient();
  }
  End();
}

void GenerateHandler::OnQuiet() {
  const std::shared_ptr<HttpExchange> exchange = exchange_.lock();
  if (exchange == nullptr || !stream_ || sending_ || ended_ || parts_.empty()) return;
  BeginStream(exchange);
  buffer_.Comment();
  SendBuffer(exchange, false);
}

}  // namespace qwenserve
