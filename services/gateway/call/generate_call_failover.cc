// The part of GenerateCall that brings samples to replicas, again and again if need be.

#include <memory>
#include <utility>

#include "services/common/errors/error_details.h"
#include "services/common/proto_time.h"
#include "services/gateway/call/generate_call.h"
#include "services/gateway/call/sampling_defaults.h"

namespace qwenserve {
namespace {

absl::Status WorkerLost(absl::string_view message) {
  absl::Status status = WithReason(absl::UnavailableError(message), kReasonWorkerLost);
  return WithRetryAfter(status, absl::Seconds(1));
}

}  // namespace

// In the queue for one sample. Its identity tells an answer that is still of interest from one that
// came too late.
class GenerateCall::Relocation final : public PlacementListener {
 public:
  Relocation(std::shared_ptr<GenerateCall> call, const PlaceCost& cost)
      : call_(std::move(call)), cost_(cost) {}

  void OnPlaced(std::shared_ptr<GeneratorReplica> replica) override {
    call_->OnRelocated(this, std::move(replica));
  }
  void OnNotPlaced(absl::Status) override { call_->OnNotRelocated(this); }
  const PlaceCost& cost() const { return cost_; }

 private:
  const std::shared_ptr<GenerateCall> call_;
  const PlaceCost cost_;
};

uint32_t GenerateCall::IndexOf(const Sample& sample) const {
  return static_cast<uint32_t>(&sample - samples_.data());
}

GenerateCall::Sample* GenerateCall::Find(const Relocation* relocation) {
  if (phase_ != Phase::kRunning) return nullptr;
  for (Sample& sample : samples_) {
    if (sample.relocation.get() == relocation) return &sample;
  }
  return nullptr;
}

void GenerateCall::Submit(Sample& sample, const std::shared_ptr<GeneratorReplica>& replica,
                          const PlaceCost& reserved) {
  const uint32_t index = IndexOf(sample);
  const v1::ServerHello& hello = replica->hello();
  v1::Submit submit = submit_;
  prompt_ids_.AppendTo(submit.mutable_prompt_ids());
  submit.set_sample_index(index);
  submit.set_attempt(failover_->next_attempt(index));
  submit.mutable_resumed_ids()->Add(sample.ids.begin(), sample.ids.end());
  if (!submitted_) {
    *submit.mutable_sampling() =
        ResolveSampling(request_.options.sampling(), hello.default_sampling());
  }
  ToProtoDuration(deadline_ - services_.clock(), submit.mutable_time_left());
  submit.set_initial_credit(sample.choice.OnResume());
  // The prompt is the same for all samples. Before the answer's first token all of it has come.
  if (index == 0 && request_.prompt_logprobs.has_value() && sample.ids.empty() &&
      sample.choice.prompt_logprobs_received() + 1 < prompt_tokens_) {
    submit.set_prompt_logprobs(*request_.prompt_logprobs);
  }
  if (!submitted_) *submit_.mutable_sampling() = submit.sampling();
  sample.queue.End();
  sample.attempt.Begin(span_, hello.instance_id(), &submit);
  const std::optional<uint64_t> sequence =
      replica->Submit(std::move(submit), reserved, shared_from_this());
  if (!sequence.has_value()) return Lose(sample, LossCause::kUnreachable);
  if (failover_->next_attempt(index) > 0) {
    services_.metrics->failovers[static_cast<int>(sample.cause)]->Increment();
    sample.in_gap = true;
  }
  failover_->OnSubmit(index, hello.instance_id());
  sample.replica = replica;
  sample.sequence = *sequence;
  sample.begun = false;
  sample.seek_at = absl::InfiniteFuture();
  worker_instance_id_ = hello.instance_id();
  if (!std::exchange(submitted_, true)) OnFirstSubmit(hello);
}

void GenerateCall::OnFirstSubmit(const v1::ServerHello& hello) {
  fingerprint_ = hello.numerics_fingerprint();
  model_metrics_->prompt_tokens.Increment(prompt_tokens_);
  model_metrics_->prompt_tokens_per_request.Observe(prompt_tokens_);
  started_.emplace();
  started_->set_request_id(request_.shown_id());
  started_->set_seed(request_.options.sampling().seed());
  started_->set_model(model_.name);
  started_->set_prompt_tokens(prompt_tokens_);
  started_->set_fingerprint(fingerprint_);
}

void GenerateCall::OnGeneratorLost(uint32_t index, uint32_t attempt, LossCause cause) {
  std::vector<Seeking> seeking;
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kRunning || index >= samples_.size()) return;
    Sample& sample = samples_[index];
    if (sample.replica == nullptr || attempt != failover_->attempt(index)) return;
    Lose(sample, cause);
    seeking.swap(seeking_);
  }
  PlaceAll(std::move(seeking));
  sink_->Wake();
}

void GenerateCall::OnHandOver(uint32_t index, uint32_t attempt, LossCause cause) {
  std::vector<Seeking> seeking;
  {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kRunning || index >= samples_.size()) return;
    Sample& sample = samples_[index];
    if (sample.replica == nullptr || attempt != failover_->attempt(index)) return;
    // It asks again and again.
    if (sample.relocation != nullptr || !MayMove(sample, cause)) return;
    sample.cause = cause;
    Seek(sample);
    seeking.swap(seeking_);
  }
  PlaceAll(std::move(seeking));
}

bool GenerateCall::MayMove(const Sample& sample, LossCause cause) const {
  if (!failover_->MayMove(IndexOf(sample), cause)) return false;
  if (fingerprint_.empty() && !sample.ids.empty()) return false;
  return sample.ids.size() < max_tokens_;  // else only its end is to come
}

void GenerateCall::Lose(Sample& sample, LossCause cause) {
  sample.replica = nullptr;
  if (sample.ids.size() >= max_tokens_) {
    // Only the news of its end was lost.
    v1::SequenceEvent end;
    end.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_LENGTH);
    Close(sample);
    if (absl::Status status = sample.choice.OnEvent(end); !status.ok()) return End(status);
    return Advance(sample);
  }
  if (!Leave(sample, cause) || sample.relocation != nullptr) return;
  const absl::Time at = failover_->not_before(IndexOf(sample));
  if (at > services_.clock()) {
    sample.seek_at = at;
  } else {
    Seek(sample);
  }
}

bool GenerateCall::Leave(Sample& sample, LossCause cause) {
  sample.cause = cause;
  sample.replica = nullptr;
  const uint32_t index = IndexOf(sample);
  sample.attempt.Lose(cause, sample.ids.size());
  span_.Event("replica_lost", LossCauseName(cause),
              {{"sample", index}, {"tokens", sample.ids.size()}});
  switch (failover_->OnLoss(index, cause, !fingerprint_.empty(), !sample.ids.empty(),
                            services_.clock())) {
    case Failover::Verdict::kResubmit:
      return true;
    case Failover::Verdict::kPoison:
      services_.metrics->suspected_poison.Increment();
      End(WithReason(absl::InternalError("two generators were lost while they had this request"),
                     kReasonSuspectedPoison));
      return false;
    case Failover::Verdict::kNoResume:
      End(WorkerLost("the generator was lost, and its numerics let no other one go on"));
      return false;
    case Failover::Verdict::kNoBudget:
      services_.metrics->retry_budget_exhausted.Increment();
      break;
    case Failover::Verdict::kGiveUp:
      break;
  }
  End(cause == LossCause::kRefused ? sample.refusal : WorkerLost("the generator was lost"));
  return false;
}

void GenerateCall::Seek(Sample& sample) {
  const uint32_t index = IndexOf(sample);
  const uint32_t received = static_cast<uint32_t>(sample.ids.size());
  PlacementRequest request = plan_;
  request.cost = {1, prompt_tokens_ + received, max_tokens_ - received};
  request.fingerprint = fingerprint_;
  request.excluded = failover_->Excluded(index);
  request.resumed = failover_->accepted(index);
  if (sample.replica != nullptr) {
    request.excluded.push_back(sample.replica->hello().instance_id());
    request.resumed = true;
  }
  sample.seek_at = absl::InfiniteFuture();
  if (!sample.queue.recording()) sample.queue = BeginQueueSpan(span_);
  sample.relocation = std::make_shared<Relocation>(shared_from_this(), request.cost);
  seeking_.push_back({std::move(request), sample.relocation});
}

void GenerateCall::StopSeeking(Sample& sample) {
  sample.seek_at = absl::InfiniteFuture();
  sample.queue.End();
  if (sample.relocation == nullptr) return;
  services_.placer->Withdraw(sample.relocation.get());
  sample.relocation = nullptr;
}

void GenerateCall::PlaceAll(std::vector<Seeking> seeking) {
  for (Seeking& one : seeking) {
    services_.placer->Place(std::move(one.request), one.relocation);
    // Of no interest any more, just before it stood in the queue: it would wait there in vain.
    absl::MutexLock lock(&mutex_);
    if (Find(one.relocation.get()) == nullptr) services_.placer->Withdraw(one.relocation.get());
  }
}

void GenerateCall::OnRelocated(const Relocation* relocation,
                               std::shared_ptr<GeneratorReplica> replica) {
  const PlaceCost cost = relocation->cost();
  bool unused = true;
  std::vector<Seeking> seeking;
  {
    absl::MutexLock lock(&mutex_);
    if (Sample* sample = Find(relocation); sample != nullptr) {
      sample->relocation = nullptr;
      bool goes_on = true;
      if (sample->replica != nullptr) {  // handed over: the old one has it until now
        // What has come since it was asked for may be a reason to stay.
        goes_on = MayMove(*sample, sample->cause);
        if (!goes_on) {
          sample->queue.End();
        } else {
          sample->replica->Cancel(sample->sequence);
          goes_on = Leave(*sample, sample->cause);
        }
      }
      if (goes_on) {
        Submit(*sample, replica, cost);
        unused = false;
      }
      seeking.swap(seeking_);
    }
  }
  if (unused) replica->Release(cost);
  PlaceAll(std::move(seeking));
  sink_->Wake();
}

void GenerateCall::OnNotRelocated(const Relocation* relocation) {
  {
    absl::MutexLock lock(&mutex_);
    Sample* sample = Find(relocation);
    if (sample == nullptr) return;
    sample->relocation = nullptr;
    if (sample->replica != nullptr) {  // stays where it is
      sample->queue.End();
      return;
    }
    const uint32_t index = IndexOf(*sample);
    if (const auto again = failover_->OnNoReplica(index, services_.clock()); again.has_value()) {
      sample->seek_at = *again;
      return;
    }
    const bool refused = sample->cause == LossCause::kRefused && !failover_->accepted(index);
    End(refused ? sample->refusal
                : WorkerLost("the generator was lost, and there is no equal one to go on at"));
  }
  sink_->Wake();
}

void GenerateCall::Close(Sample& sample) {
  sample.open = false;
  sample.attempt.End(sample.ids.size());
  if (sample.replica != nullptr) sample.replica->Cancel(sample.sequence);
  sample.replica = nullptr;
  StopSeeking(sample);
}

uint32_t GenerateCall::failovers() const {
  absl::MutexLock lock(&mutex_);
  return failover_.has_value() ? failover_->failovers() : 0;
}

uint32_t GenerateCall::replicas() const {
  absl::MutexLock lock(&mutex_);
  return failover_.has_value() ? failover_->replicas() : 0;
}

}  // namespace qwenserve
