#ifndef QWENSERVE_TESTS_ENGINE_SCHEDULE_STEP_DRIVER_H_
#define QWENSERVE_TESTS_ENGINE_SCHEDULE_STEP_DRIVER_H_

#include <utility>
#include <vector>

#include "engine/schedule/scheduler.h"
#include "gtest/gtest.h"

namespace qwenserve {

// A prompt of `length` ids from `first` on, of a vocabulary of 100000.
inline SequenceRequest RequestOf(int length, int max_tokens, int first = 0) {
  SequenceRequest request;
  for (int i = 0; i < length; ++i) request.prompt_ids.push_back(first + i);
  request.sampling.max_tokens = max_tokens;
  request.credit = 1 << 20;
  return request;
}

// A scheduler with room for everything, to be made smaller by a test.
inline SchedulerOptions RoomyOptions() {
  SchedulerOptions options;
  options.max_batch_tokens = 512;
  options.max_running = 64;
  options.max_waiting = 1000;
  options.max_model_len = 16384;
  options.num_blocks = 4096;
  options.vocab_size = 100000;
  options.fingerprint = "f";
  return options;
}

// A scheduler whose every draw gives 99000 plus a running number.
class StepDriver {
 public:
  explicit StepDriver(const SchedulerOptions& options) : scheduler(options) {}

  uint64_t Add(SequenceRequest request) {
    auto id = scheduler.Add(std::move(request), now);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }

  // One step, which takes no time. `events` has what it brought.
  StepPlan Step() {
    events.clear();
    StepPlan plan = scheduler.Schedule(now, &events);
    if (plan.sequences.empty()) return plan;
    std::vector<SampledToken> tokens;
    for (const PlanSequence& part : plan.sequences) {
      for (int32_t i = 0; i < part.num_scored; ++i) {
        const size_t next = part.first_scored + i + 1;
        tokens.push_back({.id = next < part.ids.size() ? part.ids[next] : part.next_id});
      }
      if (part.wants_logits) tokens.push_back({.id = broken_draws ? -1 : 99000 + draws++ % 1000});
    }
    scheduler.Commit(plan, tokens, &events);
    scheduler.CheckIntegrity();
    return plan;
  }

  Scheduler scheduler;
  absl::Time now = absl::UnixEpoch();
  std::vector<SequenceEvent> events;
  int32_t draws = 0;
  bool broken_draws = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_SCHEDULE_STEP_DRIVER_H_
