#include "services/gateway/call/generate_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"
#include "services/common/error_details.h"
#include "services/common/status_mapping.h"
#include "services/gateway/call/text_util.h"
#include "services/gateway/routing/prefix_directory.h"

namespace qwenserve {
namespace {

// What a token and its log-probability take in memory as part of an answer: id, number, bytes, and
// what protobuf and the allocator add.
constexpr size_t kLogprobBytes = 128;
// A token of an answer without it: id and text, in as many copies as there are stages on its way.
constexpr size_t kTokenBytes = 64;

absl::Status TooLong(uint32_t prompt_tokens, uint32_t max_tokens, uint32_t limit) {
  const std::string numbers =
      max_tokens == 0
          ? absl::StrCat("the prompt has ", prompt_tokens, " tokens, the model takes at most ",
                         limit, " with at least one for the answer")
          : absl::StrCat("the prompt's ", prompt_tokens, " tokens and max_tokens ", max_tokens,
                         " are ", uint64_t{prompt_tokens} + max_tokens,
                         " together, the model takes at most ", limit);
  absl::Status status = InvalidField(max_tokens == 0 ? "prompt" : "options.max_tokens", numbers);
  status = WithReason(status, kReasonContextLength);
  status = WithMetadata(status, "prompt_tokens", absl::StrCat(prompt_tokens));
  return WithMetadata(status, "max_model_len", absl::StrCat(limit));
}

}  // namespace

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
  QS_ASSIGN_OR_RETURN(key_ticket_, services_.key_limits->Enter(request_.caller.grant));
  QS_ASSIGN_OR_RETURN(ticket_, services_.admission->Enter(incoming.bytes));
  if (services_.clock() >= deadline_) return absl::DeadlineExceededError("deadline exceeded");
  PlacementRequest least;
  least.model = model_.name;
  least.tokenizer_hash = model_.tokenizer_hash;
  least.cost = {request_.n(), 0, std::max(1u, request_.options.min_tokens())};
  least.priority = request_.options.priority();
  least.deadline = deadline_;
  QS_RETURN_IF_ERROR(services_.placer->Foresee(least));
  services_.retries->OnRequest();

  phase_ = Phase::kPreparing;
  request_.prompt.set_model(model_.name);
  request_.prompt.set_request_id(request_.id);
  request_.prompt.set_traceparent(request_.caller.traceparent);
  request_.prompt.set_max_prompt_tokens(model_.max_model_len);
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
    if (plan.ok()) {
      phase_ = Phase::kPlacing;
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
  if (prompt_tokens_ == 0) return InvalidField("prompt", "has no tokens");
  if (request_.tools != nullptr) {
    request_.tools->whole_calls = request_.whole;
    request_.tools->id_seed = ToolCallIdSeed(request_.options.sampling().seed(),
                                             prompt_.prompt_ids().data(), prompt_tokens_);
  }
  const uint32_t limit = model_.max_model_len;
  if (prompt_tokens_ >= limit) return TooLong(prompt_tokens_, 0, limit);
  const v1::GenerationOptions& options = request_.options;
  max_tokens_ = options.has_max_tokens() ? options.max_tokens() : limit - prompt_tokens_;
  if (uint64_t{prompt_tokens_} + max_tokens_ > limit) {
    return TooLong(prompt_tokens_, max_tokens_, limit);
  }

  if (options.min_tokens() > max_tokens_) {
    return InvalidField("options.min_tokens", absl::StrCat("is ", options.min_tokens(),
                                                           ", there is room for ", max_tokens_));
  }
  for (const auto& [id, bias] : options.sampling().logit_bias()) {
    if (id < model_.vocab_size) continue;
    return InvalidField(absl::StrCat("options.sampling.logit_bias[", id, "]"),
                        absl::StrCat("the vocabulary has ids 0 to ", model_.vocab_size - 1));
  }
  for (int i = 0; i < options.stop_token_ids_size(); ++i) {
    if (options.stop_token_ids(i) < model_.vocab_size) continue;
    return InvalidField(absl::StrCat("options.stop_token_ids[", i, "]"),
                        absl::StrCat("is ", options.stop_token_ids(i),
                                     ", the vocabulary has ids 0 to ", model_.vocab_size - 1));
  }

  if (request_.prompt_logprobs.has_value()) {
    // They come at the pace of the prompt, not of the client: a hundred times the request's size.
    const size_t tokens = size_t{prompt_tokens_} * (1 + *request_.prompt_logprobs);
    QS_RETURN_IF_ERROR(ticket_.Grow(tokens * kLogprobBytes));
  }

  QS_RETURN_IF_ERROR(key_ticket_.TakePrompt(prompt_tokens_));
  QS_RETURN_IF_ERROR(HoldAnswer());

  // They are kept for as long as the answer may have to go on elsewhere.
  ticket_.Hold(size_t{prompt_tokens_} * sizeof(uint32_t));
  PlacementRequest plan;
  plan.model = model_.name;
  plan.tokenizer_hash = model_.tokenizer_hash;
  const std::vector<uint64_t> hashes(prompt_.block_hashes().begin(), prompt_.block_hashes().end());
  plan.prefix_keys = PrefixKeys(hashes, prompt_.block_tokens(), request_.options.cache_salt());
  plan.cost = {request_.n(), prompt_tokens_, max_tokens_};
  plan.priority = options.priority();
  plan.deadline = deadline_;
  plan_ = plan;
  return plan;
}

size_t GenerateCall::TokenBytes() const {
  const v1::GenerationOptions& options = request_.options;
  return kTokenBytes +
         (options.has_top_logprobs() ? (1 + options.top_logprobs()) * kLogprobBytes : 0);
}

absl::Status GenerateCall::HoldAnswer() {
  // The rest of a whole answer is counted as it comes, since most are shorter than they may be.
  const size_t tokens = std::min<int64_t>(max_tokens_, services_.settings.credit_window);
  return ticket_.Reserve(request_.n() * tokens * TokenBytes());
}

void GenerateCall::OnPlaced(std::shared_ptr<GeneratorReplica> replica) {
  std::optional<PlaceCost> unused;
  std::vector<Seeking> seeking;
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ == Phase::kPlacing) {
      phase_ = Phase::kRunning;
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
  MakeSubmit();
  failover_.emplace(n, services_.settings.failover_wait, services_.retries);
  samples_.reserve(n);
  for (uint32_t i = 0; i < n; ++i) samples_.emplace_back(MakeChoice(i));
  for (Sample& sample : samples_) {
    if (phase_ == Phase::kRunning) Submit(sample, replica, {1, prompt_tokens_, max_tokens_});
  }
}

void GenerateCall::MakeSubmit() {
  const v1::GenerationOptions& options = request_.options;
  submit_.set_request_id(request_.id);
  submit_.set_traceparent(request_.caller.traceparent);
  submit_.mutable_prompt_ids()->Swap(prompt_.mutable_prompt_ids());
  submit_.set_max_tokens(max_tokens_);
  submit_.set_min_tokens(options.min_tokens());
  submit_.set_ignore_eos(options.ignore_eos());
  if (options.has_top_logprobs()) submit_.set_top_logprobs(options.top_logprobs());
  *submit_.mutable_stop_token_ids() = options.stop_token_ids();
  if (!options.ignore_eos()) {
    submit_.mutable_stop_token_ids()->MergeFrom(prompt_.answer_format().stop_token_ids());
  }
  submit_.set_cache_salt(options.cache_salt());
  submit_.set_priority(options.priority());
}

Choice::Settings GenerateCall::MakeChoice(uint32_t index) {
  Choice::Settings settings;
  settings.index = index;
  settings.key = services_.text->NewKey();
  settings.known = services_.text->KnownTexts(model_.tokenizer_hash);
  settings.credit_window = services_.settings.credit_window;
  const auto& stop = request_.options.stop();
  settings.stop.assign(stop.begin(), stop.end());
  if (request_.chat) {
    settings.format = prompt_.answer_format();
    const auto& format_stop = settings.format.stop();
    settings.format_stop.assign(format_stop.begin(), format_stop.end());
  }
  settings.tools = request_.tools;
  settings.echo_text = request_.echo_text;
  settings.logprobs = request_.options.has_top_logprobs();
  return settings;
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
      RecordTokens(sample->choice, sample->choice.completion_tokens() - before);
      if (phase_ == Phase::kRunning) Advance(*sample);
    }
  }
  sink_->Wake();
}

void GenerateCall::RecordTokens(const Choice& choice, int tokens) {
  if (tokens == 0) return;
  const absl::Time now = services_.clock();
  if (last_token_ == absl::InfinitePast()) {
    first_token_ = now;
    services_.metrics->time_to_first_token.Observe(absl::ToDoubleSeconds(now - start_));
  } else {
    services_.metrics->inter_token.Observe(absl::ToDoubleSeconds(now - last_token_) / tokens);
  }
  last_token_ = now;
  services_.metrics->completion_tokens.Increment(tokens);
  key_ticket_.TakeAnswer(tokens);
  if (!request_.whole || phase_ == Phase::kEnded) return;
  if (absl::Status status = ticket_.Use(tokens * TokenBytes()); !status.ok()) End(status);
}

// After any change of a sample: what goes to the tokenizer, and whether the generator may stop.
void GenerateCall::Advance(Sample& sample) {
  const uint32_t before = sample.choice.completion_tokens();
  sample.choice.DecodeKnown();
  RecordTokens(sample.choice, static_cast<int>(sample.choice.completion_tokens() - before));
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
  if (cancel_prepare_ != nullptr) std::exchange(cancel_prepare_, nullptr)();
  if (phase_ == Phase::kPlacing) services_.placer->Withdraw(this);
  for (Sample& sample : samples_) Close(sample);
  seeking_.clear();
  phase_ = Phase::kEnded;
  error_ = std::move(status);
}

GenerateCall::Output GenerateCall::Next() {
  absl::MutexLock lock(&mutex_);
  if (handed_out_ || terminal_given_) return std::monostate();
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
  handed_out_ = true;
  handed_out_at_ = services_.clock();
  handed_out_choice_ = choice;
  handed_out_tokens_ = tokens;
}

void GenerateCall::Taken() {
  absl::MutexLock lock(&mutex_);
  if (!std::exchange(handed_out_, false)) return;
  if (handed_out_choice_ >= samples_.size()) return;
  Sample& sample = samples_[handed_out_choice_];
  const uint32_t credit = sample.choice.OnTaken(handed_out_tokens_);
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
    End(expired ? absl::DeadlineExceededError("deadline exceeded")
                : absl::CancelledError("the client is gone"));
    discard_ = true;
    handed_out_ = false;
  }
  sink_->Wake();
}

void GenerateCall::AbortSlowClient() {
  {
    absl::MutexLock lock(&mutex_);
    if (terminal_given_) return;
    EndSlowClient();
    handed_out_ = false;
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
    drop =
        handed_out_ && !discard_ && now - handed_out_at_ > services_.settings.slow_client_timeout;
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
