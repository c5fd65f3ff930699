#ifndef QWENSERVE_ENGINE_SCHEDULE_SEQUENCE_H_
#define QWENSERVE_ENGINE_SCHEDULE_SEQUENCE_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "engine/cache/block_allocator.h"
#include "engine/schedule/request.h"

namespace qwenserve {

// A request at work: its tokens so far, and how much of them is in the KV cache. Owned by the
// scheduler.
struct Sequence {
  Sequence(uint64_t id, SequenceRequest request, std::vector<int32_t> end_ids, absl::Time now,
           BlockAllocator* allocator);

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  // Of the answer, those from an earlier attempt included.
  int64_t answer_tokens() const { return num_tokens() - num_prompt; }
  // Tokens whose keys and values must be computed before the next one can be drawn; never 0.
  int64_t rows_left() const { return num_tokens() - num_computed; }

  bool needs_prompt_rows() const { return num_scored < num_prompt; }

  // Gives the blocks back; the sequence will be computed again from its tokens.
  void DropBlocks();

  // Stops the program when the counters disagree.
  void CheckIntegrity() const;

  const uint64_t id;  // ascends in the order of arrival
  const SamplingParams sampling;
  const int32_t sample_index;
  const absl::Time deadline;
  const int32_t priority;
  const int64_t num_prompt;
  const absl::Time accepted;
  const std::vector<int32_t> end_ids;  // ids that would end the answer

  std::vector<int32_t> tokens;  // prompt, then answer
  int64_t num_computed = 0;     // tokens[0 .. num_computed) are in the cache
  // Prompt tokens [1, num_scored) have been reported with their log-probabilities. The others need
  // the rows before them computed, so nothing of such a prompt may be taken from a cache.
  int64_t num_scored;
  BlockTable blocks;
  int64_t credit;  // tokens that may still be produced
  bool resumed;    // it has been at work here or elsewhere: goes before those that have not
  bool cancelled = false;
  absl::Duration queue_time;  // until its first step
  bool started = false;       // a step has worked on it; queue_time is set
};

// Who is served first: higher priority, then earlier arrival.
struct ServedBefore {
  bool operator()(const Sequence* a, const Sequence* b) const {
    if (a->priority != b->priority) return a->priority > b->priority;
    return a->id < b->id;
  }
};

// Who of the waiting is admitted first: resumed ones, whose readers have part of the answer.
struct AdmittedBefore {
  bool operator()(const Sequence* a, const Sequence* b) const {
    if (a->resumed != b->resumed) return a->resumed;
    return ServedBefore()(a, b);
  }
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_SEQUENCE_H_
