#include "services/gateway/call/generate_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "services/gateway/call/random_draws.h"
#include "services/gateway/call/request_plan.h"

namespace qwenserve {
GenerateCall::GenerateCall(GatewayMetrics::Method method, absl::Time deadline,
                           const CallServices& services, std::shared_ptr<CallSink> sink)
    : method_(method),
      services_(services),
      sink_(std::move(sink)),
      start_(services.clock()),
      deadline_(std::min(deadline, start_ + services.settings.max_request_time)) {}

void GenerateCall::Start(IncomingCall incoming) {
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kNew) return;
    if (absl::Status status = Admit(std::move(incoming)); !status.ok()) End(status);
  }
  sink_->Wake();
}

absl::Status GenerateCall::Admit(IncomingCall incoming) {
  span_ = BeginCallSpan(services_.tracer, method_, start_, &incoming.caller);
  request_.caller = incoming.caller;
  request_.id = RandomId("req-");  // for what has no request too
  QS_RETURN_IF_ERROR(incoming.caller.refusal);
  QS_RETURN_IF_ERROR(incoming.request.status());
  if (incoming.request->id.empty()) incoming.request->id = request_.id;
  request_ = *std::move(incoming.request);
  request_.caller = std::move(incoming.caller);
  v1::SamplingParams* sampling = request_.options.mutable_sampling();
  if (!sampling->has_seed()) sampling->set_seed(DrawSeed());
  if (services_.cache_salt != nullptr) {
    request_.options.set_cache_salt(
        services_.cache_salt->Make(request_.caller.tenant(), request_.options.cache_salt()));
  }
  const KeyGrant* grant = request_.caller.grant.get();
  QS_RETURN_IF_ERROR(KeyLimits::CheckPriority(grant, request_.options.priority()));
  QS_ASSIGN_OR_RETURN(model_, services_.catalog()->Resolve(request_.model, grant));
  model_metrics_ = &services_.metrics->OfModel(model_.name);
  QS_ASSIGN_OR_RETURN(key_ticket_, services_.key_limits->Enter(request_.caller.grant));
  QS_ASSIGN_OR_RETURN(ticket_, services_.admission->Enter(incoming.bytes));
  if (services_.clock() >= deadline_) return absl::DeadlineExceededError("deadline exceeded");
  PlacementRequest least = LeastPlacement(request_, model_);
  least.deadline = deadline_;
  QS_RETURN_IF_ERROR(services_.placer->Foresee(least));
  services_.retries->OnRequest();

  phase_ = Phase::kPreparing;
  request_.prompt.set_model(model_.name);
  request_.prompt.set_request_id(request_.id);
  request_.prompt.set_traceparent(request_.caller.traceparent);
  request_.prompt.set_max_prompt_tokens(model_.max_model_len);
  prepare_span_ = BeginPrepareSpan(span_, &request_.prompt);
  auto self = shared_from_this();
  cancel_prepare_ =
      services_.text->Prepare(std::exchange(request_.prompt, {}), model_.tokenizer_hash, deadline_,
                              [self](absl::StatusOr<v1::PrepareResponse> response) {
                                self->OnPrepared(std::move(response));
                              });
  return absl::OkStatus();
}

void GenerateCall::OnPrepared(absl::StatusOr<v1::PrepareResponse> response) {
  absl::StatusOr<PlacementRequest> plan = absl::CancelledError();
  {
    absl::MutexLock lock(&mutex_);
    cancel_prepare_ = nullptr;
    if (phase_ != Phase::kPreparing) return;
    plan = response.ok() ? Plan(*std::move(response)) : WithClientPaths(response.status(), "input");
    EndPrepareSpan(response.status(), prompt_tokens_, &prepare_span_);
    if (plan.ok()) {
      phase_ = Phase::kPlacing;
      queue_span_ = BeginQueueSpan(span_);
    } else {
      End(plan.status());
    }
  }
  if (plan.ok()) {
    services_.placer->Place(*std::move(plan), shared_from_this());
    // Ended just before it stood in the queue, where it would wait for a replica in vain.
    absl::MutexLock lock(&mutex_);
    if (phase_ == Phase::kEnded) services_.placer->Withdraw(this);
  } else {
    sink_->Wake();
  }
}

absl::StatusOr<PlacementRequest> GenerateCall::Plan(v1::PrepareResponse response) {
  prompt_ = std::move(response);
  if (prompt_.tokenizer_hash() != model_.tokenizer_hash) {
    return WithReason(absl::UnavailableError("the tokenizer was replaced by another one"),
                      kReasonTokenizerMismatch);
  }
  prompt_tokens_ = prompt_.prompt_ids_size();
  if (request_.tools != nullptr) {
    request_.tools->whole_calls = request_.whole;
    request_.tools->id_seed = ToolCallIdSeed(request_.options.sampling().seed(),
                                             prompt_.prompt_ids().data(), prompt_tokens_);
  }
  QS_ASSIGN_OR_RETURN(max_tokens_, AnswerLimit(request_, model_, prompt_));
  if (const size_t bytes = PromptLogprobBytes(request_, prompt_); bytes > 0) {
    // They come at the pace of the prompt, not of the client: a hundred times the request's size.
    QS_RETURN_IF_ERROR(ticket_.Grow(bytes));
  }
  QS_RETURN_IF_ERROR(key_ticket_.TakePrompt(prompt_tokens_));
  QS_RETURN_IF_ERROR(HoldAnswer());

  // They are kept for as long as the answer may have to go on elsewhere.
  ticket_.Hold(size_t{prompt_tokens_} * sizeof(uint32_t));
  PlacementRequest plan = PlanPlacement(request_, model_, prompt_, max_tokens_);
  plan.deadline = deadline_;
  plan_ = plan;
  return plan;
}

absl::Status GenerateCall::HoldAnswer() {
  // The rest of a whole answer is counted as it comes, since most are shorter than they may be.
  const size_t tokens = std::min<int64_t>(max_tokens_, services_.settings.credit_window);
  return ticket_.Reserve(request_.n() * tokens * AnswerTokenBytes(request_));
}

void GenerateCall::OnPlaced(std::shared_ptr<GeneratorReplica> replica) {
  std::optional<PlaceCost> unused;
  std::vector<Seeking> seeking;
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ == Phase::kPlacing) {
      phase_ = Phase::kRunning;
      queue_span_.End();
      SubmitAll(replica);
      seeking.swap(seeking_);
    } else {
      unused = PlaceCost{request_.n(), prompt_tokens_, max_tokens_};
    }
  }
  if (unused.has_value()) {
    replica->Release(*unused);
  } else {
    PlaceAll(std::move(seeking));
    sink_->Wake();
  }
}

void GenerateCall::SubmitAll(const std::shared_ptr<GeneratorReplica>& replica) {
  const uint32_t n = request_.n();
  Choice::Settings settings = MakeChoiceSettings(request_, prompt_);
  settings.known = services_.text->KnownTexts(model_.tokenizer_hash);
  settings.credit_window = services_.settings.credit_window;
  submit_ = MakeSubmit(request_, max_tokens_, prompt_);
  prompt_ids_ = PackedIds(prompt_.prompt_ids());
  v1::PrepareResponse().Swap(&prompt_);  // Clear would keep its memory
  failover_.emplace(n, services_.settings.failover_wait, services_.retries);
  samples_.reserve(n);
  for (uint32_t i = 0; i < n; ++i) {
    settings.index = i;
    settings.key = services_.text->NewKey();
    samples_.emplace_back(settings);
  }
  for (Sample& sample : samples_) {
    if (phase_ == Phase::kRunning) Submit(sample, replica, {1, prompt_tokens_, max_tokens_});
  }
}

void GenerateCall::OnNotPlaced(absl::Status status) {
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kPlacing) return;
    End(std::move(status));
  }
  sink_->Wake();
}

void GenerateCall::OnSequenceEvent(uint32_t index, v1::SequenceEvent event) {
  std::vector<Seeking> seeking;
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kRunning || index >= samples_.size()) return;
    Sample& sample = samples_[index];
    if (sample.replica == nullptr || event.attempt() != failover_->attempt(index)) return;
    if (absl::Status status = TakeEvent(sample, event); !status.ok()) {
      End(status);
    } else {
      Advance(sample);
      const bool news = sample.choice.HasDelta() || sample.choice.finished();
      if (phase_ == Phase::kRunning && !news && seeking_.empty()) return;
    }
    seeking.swap(seeking_);
  }
  PlaceAll(std::move(seeking));
  sink_->Wake();
}

absl::Status GenerateCall::TakeEvent(Sample& sample, v1::SequenceEvent& event) {
  cached_tokens_ = std::max(cached_tokens_, event.cached_prompt_tokens());
  if (!event.has_finish()) {
    KeepIds(sample, event);
    return sample.choice.OnEvent(event);
  }
  sample.attempt.SetFinish(event.finish().reason());
  LossCause cause = LossCause::kFailed;  // also of a CANCELLED: not at our wish, which is not heard
  absl::Status error;
  switch (event.finish().reason()) {
    case v1::SEQUENCE_FINISH_REASON_EOS:
    case v1::SEQUENCE_FINISH_REASON_STOP_TOKEN:
    case v1::SEQUENCE_FINISH_REASON_LENGTH:
      KeepIds(sample, event);
      sample.replica = nullptr;
      Close(sample);
      return sample.choice.OnEvent(event);
    case v1::SEQUENCE_FINISH_REASON_ERROR:
      error = FromProtoStatus(event.finish().status());
      if (error.ok()) error = absl::InternalError("the generator failed without a reason");
      if (absl::IsResourceExhausted(error) && !sample.begun) {
        cause = LossCause::kRefused;
        sample.refusal = error;
      } else if (!absl::IsUnavailable(error) && !absl::IsCancelled(error)) {
        return error;
      } else if (ErrorReason(error) == kReasonDraining) {
        cause = LossCause::kDraining;
      }
      break;
    default:
      break;
  }
  event.clear_finish();
  KeepIds(sample, event);
  QS_RETURN_IF_ERROR(sample.choice.OnEvent(event));
  Lose(sample, cause);
  return absl::OkStatus();
}

void GenerateCall::KeepIds(Sample& sample, const v1::SequenceEvent& event) {
  if (event.token_ids_size() == 0 && event.prompt_logprobs_size() == 0) return;
  sample.begun = true;
  if (sample.cause == LossCause::kStalled) StopSeeking(sample);  // it has recovered
  failover_->OnAccepted(IndexOf(sample));
  if (event.token_ids_size() == 0) return;
  const absl::Time now = services_.clock();
  if (std::exchange(sample.in_gap, false) && !sample.ids.empty()) {
    services_.metrics->failover_gap.Observe(absl::ToDoubleSeconds(now - sample.last_ids));
  }
  sample.last_ids = now;
  const size_t before = sample.ids.capacity();
  sample.ids.insert(sample.ids.end(), event.token_ids().begin(), event.token_ids().end());
  if (sample.ids.capacity() > before) {
    ticket_.Hold((sample.ids.capacity() - before) * sizeof(uint32_t));
  }
}

void GenerateCall::OnText(v1::DetokenizeResult result) {
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kRunning) return;
    auto sample = std::find_if(samples_.begin(), samples_.end(), [&](const Sample& candidate) {
      return candidate.choice.key() == result.key();
    });
    if (sample == samples_.end()) return;
    const uint32_t before = sample->choice.completion_tokens();
    if (absl::Status status = sample->choice.OnText(result); !status.ok()) {
      End(status);
    } else {
      RecordTokens(*sample, static_cast<int>(sample->choice.completion_tokens() - before));
      if (phase_ == Phase::kRunning) Advance(*sample);
    }
  }
  sink_->Wake();
}

void GenerateCall::RecordTokens(Sample& sample, int tokens) {
  if (tokens == 0) return;
  const absl::Time now = services_.clock();
  if (first_token_ == absl::InfinitePast()) {
    first_token_ = now;
    span_.Event("first_token");
    model_metrics_->time_to_first_token.Observe(absl::ToDoubleSeconds(now - start_));
  }
  if (sample.last_token != absl::InfinitePast()) {
    const double each = absl::ToDoubleSeconds(now - sample.last_token) / tokens;
    for (int i = 0; i < tokens; ++i) model_metrics_->inter_token.Observe(each);
  }
  sample.last_token = now;
  model_metrics_->completion_tokens.Increment(tokens);
  key_ticket_.TakeAnswer(tokens);
  if (!request_.whole || phase_ == Phase::kEnded) return;
  const absl::Status room = ticket_.Use(tokens * AnswerTokenBytes(request_));
  if (!room.ok()) End(room);
}

// After any change of a sample: what goes to the tokenizer, and whether the generator may stop.
void GenerateCall::Advance(Sample& sample) {
  const uint32_t before = sample.choice.completion_tokens();
  sample.choice.DecodeKnown();
  RecordTokens(sample, static_cast<int>(sample.choice.completion_tokens() - before));
  if (phase_ != Phase::kRunning) return;
  if (std::optional<v1::DetokenizeItem> item = sample.choice.NextItem()) {
    services_.text->Detokenize(*std::move(item), model_.tokenizer_hash, shared_from_this());
  }
  if (sample.choice.finished()) Close(sample);
}

void GenerateCall::OnTextFailed(uint64_t key, absl::Status status) {
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kRunning) return;
    End(std::move(status));
  }
  sink_->Wake();
}

void GenerateCall::End(absl::Status status) {
  if (phase_ == Phase::kEnded) return;
  EndPrepareSpan(status, 0, &prepare_span_);
  queue_span_.SetStatus(status);
  queue_span_.End();
  if (cancel_prepare_ != nullptr) std::exchange(cancel_prepare_, nullptr)();
  if (phase_ == Phase::kPlacing) services_.placer->Withdraw(this);
  for (Sample& sample : samples_) Close(sample);
  seeking_.clear();
  phase_ = Phase::kEnded;
  error_ = std::move(status);
}

GenerateCall::Output GenerateCall::Next() {
  absl::MutexLock lock(&mutex_);
  if (handed_out_.has_value() || terminal_given_) return std::monostate();
  if (!discard_ && started_.has_value()) {
    HandOut(0, 0);
    v1::Started started = *std::move(started_);
    started_.reset();
    return started;
  }
  for (size_t i = 0; !discard_ && i < samples_.size(); ++i) {
    const size_t index = (next_choice_ + i) % samples_.size();
    Choice& choice = samples_[index].choice;
    if (!choice.HasDelta()) continue;
    next_choice_ = index + 1;
    AnswerDelta delta = choice.TakeDelta();
    HandOut(index, delta.token_ids.size());
    return delta;
  }
  if (phase_ == Phase::kEnded) {
    terminal_given_ = true;
    HandOut(0, 0);
    if (!samples_.empty()) {
      error_ = WithMetadata(error_, "tokens_sent", absl::StrCat(TokensSent()));
    }
    RecordEnd(error_);
    return error_;
  }
  const bool complete = !samples_.empty() &&
                        std::all_of(samples_.begin(), samples_.end(),
                                    [](const Sample& sample) { return sample.choice.finished(); });
  if (!complete) return std::monostate();
  phase_ = Phase::kEnded;
  terminal_given_ = true;
  HandOut(0, 0);
  RecordEnd(absl::OkStatus());
  return MakeFinished();
}

void GenerateCall::HandOut(uint32_t choice, uint32_t tokens) {
  handed_out_ = HandedOut{services_.clock(), choice, tokens};
}

void GenerateCall::Taken() {
  absl::MutexLock lock(&mutex_);
  const std::optional<HandedOut> taken = std::exchange(handed_out_, std::nullopt);
  if (!taken.has_value() || taken->choice >= samples_.size()) return;
  Sample& sample = samples_[taken->choice];
  const uint32_t credit = sample.choice.OnTaken(taken->tokens);
  if (credit > 0 && sample.replica != nullptr) {
    sample.replica->AddCredit(sample.sequence, credit);
  }
}

void GenerateCall::Abort() {
  {
    absl::MutexLock lock(&mutex_);
    if (terminal_given_) return;
    // gRPC reports a deadline that passes as a cancellation.
    const bool expired = services_.clock() >= deadline_;
    if (!expired) CountCancel();
    End(expired ? absl::DeadlineExceededError("deadline exceeded")
                : absl::CancelledError("the client is gone"));
    discard_ = true;
    handed_out_.reset();
  }
  sink_->Wake();
}

void GenerateCall::AbortSlowClient() {
  {
    absl::MutexLock lock(&mutex_);
    if (terminal_given_) return;
    EndSlowClient();
    handed_out_.reset();
  }
  sink_->Wake();
}

void GenerateCall::EndSlowClient() {
  if (std::exchange(discard_, true)) return;
  services_.metrics->sheds[GatewayMetrics::kShedSlowConsumer]->Increment();
  End(WithReason(absl::ResourceExhaustedError("the client does not read its answer"),
                 kReasonSlowConsumer));
}

Admission::Ticket GenerateCall::TakeMemory() {
  absl::MutexLock lock(&mutex_);
  QS_CHECK(terminal_given_);
  return std::move(ticket_);
}

void GenerateCall::Tick(absl::Time now) {
  bool drop = false;
  bool expired = false;
  std::vector<Seeking> seeking;
  {
    absl::MutexLock lock(&mutex_);
    expired = now >= deadline_ && phase_ != Phase::kEnded && phase_ != Phase::kNew;
    drop = handed_out_.has_value() && !discard_ &&
           now - handed_out_->at > services_.settings.slow_client_timeout;
    if (drop) {
      EndSlowClient();
    } else if (expired) {
      End(absl::DeadlineExceededError("deadline exceeded"));
    } else {
      for (Sample& sample : samples_) {
        if (now >= sample.seek_at) Seek(sample);
      }
      seeking.swap(seeking_);
    }
  }
  PlaceAll(std::move(seeking));
  if (!drop && !expired) return;
  if (drop) sink_->Drop();
  sink_->Wake();
}

}  // namespace qwenserve
