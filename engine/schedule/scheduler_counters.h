#ifndef QWENSERVE_ENGINE_SCHEDULE_SCHEDULER_COUNTERS_H_
#define QWENSERVE_ENGINE_SCHEDULE_SCHEDULER_COUNTERS_H_

#include <cstdint>

namespace qwenserve {

// What a scheduler has counted since its start.
struct SchedulerCounters {
  uint64_t prompt_tokens = 0;     // computed
  uint64_t generated_tokens = 0;  // drawn
  uint64_t surplus_tokens = 0;    // drawn for sequences that had ended meanwhile
  uint64_t preemptions = 0;       // sequences that lost blocks
  // Of the prompts of the sequences that were admitted, once each: taken from the cache.
  uint64_t cached_prompt_tokens = 0;
  // Tokens that admitted sequences asked the prefix cache for, prompt and answer so far, and those
  // of them that it had. A sequence that lost its blocks asks again.
  uint64_t queried_tokens = 0;
  uint64_t hit_tokens = 0;
  uint64_t evictions = 0;  // blocks of the prefix cache whose memory was needed
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_SCHEDULER_COUNTERS_H_
