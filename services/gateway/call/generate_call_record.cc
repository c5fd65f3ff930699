// What a GenerateCall tells of itself: its last message, metrics, access log, list of requests.

#include <utility>

#include "absl/time/clock.h"
#include "services/common/errors/error_details.h"
#include "services/common/proto_time.h"
#include "services/gateway/call/generate_call.h"

namespace qwenserve {

v1::Finished GenerateCall::MakeFinished() const {
  v1::Finished finished;
  v1::Usage* usage = finished.mutable_usage();
  usage->set_prompt_tokens(prompt_tokens_);
  usage->set_cached_prompt_tokens(cached_tokens_);
  for (const Sample& sample : samples_) {
    *finished.add_choices() = sample.choice.finish();
    usage->set_completion_tokens(usage->completion_tokens() + sample.choice.completion_tokens());
    usage->set_reasoning_tokens(usage->reasoning_tokens() + sample.choice.reasoning_tokens());
  }
  return finished;
}

bool GenerateCall::Summarize(v1::RequestSummary* summary) const {
  absl::MutexLock lock(&mutex_);
  if (phase_ == Phase::kNew || phase_ == Phase::kEnded) return false;
  summary->set_request_id(request_.shown_id());
  summary->set_model(model_.name);
  ToProtoTimestamp(absl::Now() - (services_.clock() - start_), summary->mutable_start_time());
  summary->set_prompt_tokens(prompt_tokens_);
  for (const Sample& sample : samples_) {
    summary->set_completion_tokens(summary->completion_tokens() +
                                   sample.choice.completion_tokens());
  }
  summary->set_phase(phase_ == Phase::kPreparing ? "preparing"
                     : phase_ == Phase::kPlacing ? "waiting"
                                                 : "running");
  summary->set_worker_instance_id(worker_instance_id_);
  if (failover_.has_value()) {
    summary->set_failovers(failover_->failovers());
    summary->set_replicas(failover_->replicas());
  }
  return true;
}

void GenerateCall::RecordEnd(const absl::Status& status) {
  if (std::exchange(recorded_, true)) return;
  const bool refused =
      (absl::IsResourceExhausted(status) && ErrorReason(status) != kReasonQuotaExceeded) ||
      absl::IsUnavailable(status);
  if (refused && samples_.empty()) key_ticket_.GiveBack();
  // Before the client hears of the end, since its next request may depend on it.
  key_ticket_ = KeyLimits::Ticket();
  services_.metrics->requests[method_].Increment(status.code());
  const double seconds = absl::ToDoubleSeconds(services_.clock() - start_);
  services_.metrics->duration[method_]->Observe(seconds);
  if (!samples_.empty()) {
    model_metrics_->duration.Observe(seconds);
    model_metrics_->completion_tokens_per_request.Observe(TokensSent());
    model_metrics_->cached_prompt_tokens.Increment(cached_tokens_);
  }
  for (const Sample& sample : samples_) {
    if (!sample.choice.finished()) continue;
    const int finish = sample.choice.finish().finish_reason() - v1::FINISH_REASON_STOP;
    model_metrics_->finished.at(finish)->Increment();
  }
  if (services_.access_log == nullptr && !span_.recording()) return;
  const AccessRecord record = MakeRecord(status);
  EndCallSpan(record, request_.caller, &span_);
  if (services_.access_log != nullptr) services_.access_log->Write(record, request_.caller);
}

void GenerateCall::CountCancel() {
  std::vector<Counter*>& cancels = services_.metrics->cancels;
  if (phase_ == Phase::kPreparing) cancels[GatewayMetrics::kPreparing]->Increment();
  if (phase_ == Phase::kPlacing) cancels[GatewayMetrics::kWaiting]->Increment();
  if (phase_ == Phase::kRunning) cancels[GatewayMetrics::kRunning]->Increment();
}

AccessRecord GenerateCall::MakeRecord(const absl::Status& status) const {
  AccessRecord record;
  record.id = request_.id;
  record.client_id = request_.request_id;
  record.method = GatewayMetrics::MethodName(method_);
  record.model = model_.name;
  record.status = status;
  record.prompt_tokens = prompt_tokens_;
  record.cached_tokens = cached_tokens_;
  record.completion_tokens = TokensSent();
  if (first_token_ != absl::InfinitePast()) record.time_to_first_token = first_token_ - start_;
  record.duration = services_.clock() - start_;
  if (failover_.has_value()) {
    record.failovers = failover_->failovers();
    record.replicas = failover_->replicas();
  }
  return record;
}

uint32_t GenerateCall::TokensSent() const {
  uint32_t tokens = 0;
  for (const Sample& sample : samples_) tokens += sample.choice.completion_tokens();
  return tokens;
}

}  // namespace qwenserve
