#include "services/generator/sequence_trace.h"

#include <algorithm>
#include <utility>

#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

// As in checks of a Submit: what is longer is refused.
constexpr size_t kMaxTracedIdBytes = 128;

absl::Status StatusOf(const SequenceEvent& event) {
  switch (event.finish) {
    case FinishReason::kCancelled:
      return absl::CancelledError();
    case FinishReason::kDeadline:
      return absl::DeadlineExceededError("");
    case FinishReason::kError:
      return event.error;
    case FinishReason::kNumeric:
      return WithReason(event.error, kReasonNumeric);
    default:
      return absl::OkStatus();
  }
}

const char* FinishName(FinishReason finish) {
  switch (finish) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    default:
      return "error";
  }
}

Span BeginGenerate(const Tracer* tracer, const v1::Submit& submit, absl::Time now) {
  if (tracer == nullptr) return Span();
  Span span = tracer->Begin("generate", submit.traceparent(), now).span;
  if (!span.recording()) return span;
  if (submit.request_id().size() <= kMaxTracedIdBytes) {
    span.SetText("qwenserve.request_id", submit.request_id());
  }
  span.SetNumber("qwenserve.sample", submit.sample_index());
  span.SetNumber("qwenserve.attempt", submit.attempt());
  span.SetNumber("gen_ai.request.max_tokens", submit.max_tokens());
  span.SetNumber("gen_ai.usage.input_tokens", submit.prompt_ids_size());
  span.SetNumber("qwenserve.resumed_tokens", submit.resumed_ids_size());
  return span;
}

}  // namespace

void SequenceTrace::Begin(const Tracer* tracer, const v1::Submit& submit, absl::Time now) {
  span_ = BeginGenerate(tracer, submit, now);
  begin_ = now;
}

void SequenceTrace::Refused(const Tracer* tracer, const v1::Submit& submit, absl::Time now,
                            const absl::Status& status) {
  Span span = BeginGenerate(tracer, submit, now);
  span.SetStatus(status);
  span.End();
}

void SequenceTrace::Record(const SequenceEvent& event, absl::Time now) {
  if (!event.ids.empty()) first_tokens_ = std::min(first_tokens_, now);
  tokens_ += static_cast<int64_t>(event.ids.size());
  if (event.finish == FinishReason::kNone) return;
  RecordParts(event.queue_time, now);
  span_.SetNumber("gen_ai.usage.output_tokens", tokens_);
  span_.SetNumber("qwenserve.cached_tokens", event.cached_prompt_tokens);
  span_.SetText("qwenserve.finish", FinishName(event.finish));
  span_.SetStatus(StatusOf(event));
  span_.End(now);
}

void SequenceTrace::RecordParts(absl::Duration queue_time, absl::Time end) {
  // An answer without tokens has no decode, and what ends in the queue nothing else: its queue time
  // is all of its time.
  const absl::Time started = std::min(begin_ + queue_time, end);
  const absl::Time prefilled = std::clamp(first_tokens_, started, end);
  span_.Child("queue", Span::Kind::kInternal, begin_).End(started);
  if (started < end) span_.Child("prefill", Span::Kind::kInternal, started).End(prefilled);
  if (prefilled < end) span_.Child("decode", Span::Kind::kInternal, prefilled).End(end);
}

}  // namespace qwenserve
