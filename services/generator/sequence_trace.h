#ifndef QWENSERVE_SERVICES_GENERATOR_SEQUENCE_TRACE_H_
#define QWENSERVE_SERVICES_GENERATOR_SEQUENCE_TRACE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/schedule/request.h"
#include "qwenserve/v1/generator.pb.h"
#include "services/common/tracing/span.h"
#include "services/common/tracing/tracer.h"

namespace qwenserve {

// The spans of one sequence: "generate" from its Submit to its end, and in it "queue", "prefill"
// and "decode". Records nothing without a tracer, nor when the request is not sampled.
class SequenceTrace {
 public:
  // The engine has taken the sequence, which arrived at `now`.
  void Begin(const Tracer* tracer, const v1::Submit& submit, absl::Time now);
  // What a step that ended at `now` did for it; the last one ends the spans.
  void OnEvent(const SequenceEvent& event, absl::Time now) {
    if (span_.recording()) Record(event, now);
  }

  static void Refused(const Tracer* tracer, const v1::Submit& submit, absl::Time now,
                      const absl::Status& status);

 private:
  void Record(const SequenceEvent& event, absl::Time now);
  void RecordParts(absl::Duration queue_time, absl::Time end);

  Span span_;
  absl::Time begin_;
  absl::Time first_tokens_ = absl::InfiniteFuture();  // none yet
  int64_t tokens_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_SEQUENCE_TRACE_H_
