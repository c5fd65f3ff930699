#include "services/generator/sequence_timing.h"

#include <algorithm>

#include "services/common/metrics/metric_builders.h"

namespace qwenserve {
namespace {

void ObserveSeconds(Histogram& histogram, absl::Duration duration) {
  histogram.Observe(std::max(0.0, absl::ToDoubleSeconds(duration)));
}

Counter* CounterOf(FinishReason reason, GeneratorMetrics* metrics) {
  switch (reason) {
    case FinishReason::kStop:
      return &metrics->finished_stop;
    case FinishReason::kLength:
      return &metrics->finished_length;
    case FinishReason::kCancelled:
      return &metrics->finished_cancelled;
    case FinishReason::kDeadline:
      return &metrics->finished_deadline;
    case FinishReason::kError:
    case FinishReason::kNumeric:
      return &metrics->finished_error;
    case FinishReason::kNone:
      break;
  }
  return nullptr;
}

}  // namespace

SequenceTiming::SequenceTiming(GeneratorMetrics* metrics)
    : metrics_(metrics), inter_token_(metrics->inter_token, StepSeconds()) {}

void SequenceTiming::OnEvent(const SequenceEvent& event, int64_t prompt_tokens, absl::Time now,
                             SequenceTimes* times) {
  // The id that ended the answer is not among the event's, but was drawn.
  const int drawn = static_cast<int>(event.ids.size()) + (event.finish == FinishReason::kStop);
  if (drawn > 0) {
    if (times->tokens == 0) {
      times->first_token = now;
      ObserveSeconds(metrics_->first_token, now - times->submitted);
      ObserveSeconds(metrics_->prefill_duration, now - times->submitted - event.queue_time);
      metrics_->prompt_tokens_per_sequence.Observe(static_cast<double>(prompt_tokens));
    } else {
      inter_token_.Observe(absl::ToDoubleSeconds(now - times->last_token) / drawn, drawn);
    }
    times->last_token = now;
    times->tokens += drawn;
  }
  if (event.finish != FinishReason::kNone) OnFinish(event, now, *times);
}

void SequenceTiming::OnFinish(const SequenceEvent& event, absl::Time now,
                              const SequenceTimes& times) {
  CounterOf(event.finish, metrics_)->Increment();
  ObserveSeconds(metrics_->queue_duration, event.queue_time);
  if (times.tokens == 0) return;
  ObserveSeconds(metrics_->decode_duration, now - times.first_token);
  ObserveSeconds(metrics_->sequence_duration, now - times.submitted);
  metrics_->tokens_per_sequence.Observe(static_cast<double>(times.tokens));
}

void SequenceTiming::OnStepEnd(const StepEvents& step) {
  inter_token_.Flush();
  // 0: what ended between steps.
  if (step.duration <= absl::ZeroDuration()) return;
  metrics_->step_duration.Observe(absl::ToDoubleSeconds(step.duration));
  metrics_->step_tokens.Observe(static_cast<double>(step.rows));
  metrics_->step_sequences.Observe(static_cast<double>(step.batch));
}

}  // namespace qwenserve
