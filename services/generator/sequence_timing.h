#ifndef QWENSERVE_SERVICES_GENERATOR_SEQUENCE_TIMING_H_
#define QWENSERVE_SERVICES_GENERATOR_SEQUENCE_TIMING_H_

#include <cstdint>

#include "absl/time/time.h"
#include "engine/schedule/request.h"
#include "services/common/metrics/metrics.h"
#include "services/generator/generator_metrics.h"

namespace qwenserve {

// When what happened to a sequence at this replica.
struct SequenceTimes {
  absl::Time submitted;
  absl::Time first_token;
  absl::Time last_token;
  int64_t tokens = 0;  // drawn; none: the times of tokens mean nothing
};

// Turns what steps report into the metrics of steps and sequences. A sequence that went on from
// another replica counts as one of this replica's own: its first token is its first one here.
// Pauses for want of credit are part of a sequence's times. Not thread-safe.
class SequenceTiming {
 public:
  explicit SequenceTiming(GeneratorMetrics* metrics);

  // For each event of a step, and then once for the step. `now` is when it was reported.
  void OnEvent(const SequenceEvent& event, int64_t prompt_tokens, absl::Time now,
               SequenceTimes* times);
  void OnStepEnd(const StepEvents& step);

 private:
  void OnFinish(const SequenceEvent& event, absl::Time now, const SequenceTimes& times);

  GeneratorMetrics* const metrics_;
  HistogramBatch inter_token_;  // one value for each running sequence, every step
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_SEQUENCE_TIMING_H_
