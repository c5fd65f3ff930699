#ifndef QWENSERVE_ENGINE_SCHEDULE_SEQUENCE_H_
#define QWENSERVE_ENGINE_SCHEDULE_SEQUENCE_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "engine/cache/block_allocator.h"
#include "engine/cache/prefix_cache.h"
#include "engine/schedule/request.h"

namespace qwenserve {

// A request at work: its tokens so far, and how much of them is in the KV cache. Owned by the
// scheduler.
struct Sequence {
  // `turn`, `root`: see below and engine/cache/prefix_cache.h.
  Sequence(uint64_t id, SequenceRequest request, std::vector<int32_t> end_ids, absl::Time now,
           absl::Time turn, const BlockKey& root, BlockAllocator* allocator);

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  // Of the answer, those from an earlier attempt included.
  int64_t answer_tokens() const { return num_tokens() - num_prompt; }
  // Tokens whose keys and values the steps to come must compute before another one can be drawn
  // than those under way; never 0.
  int64_t rows_left() const { return num_tokens() + num_unknown - num_planned; }

  bool needs_prompt_rows() const { return scores_planned < num_prompt; }

  // Whether it will want another token after those that are being drawn, unless an id ends it.
  bool goes_on() const { return credit > num_unknown && !draws_last_token(); }
  // Whether it will be gone when the steps under way are committed, whatever they draw.
  bool draws_last_token() const { return answer_tokens() + num_unknown >= sampling.max_tokens; }

  // Gives the blocks back; the sequence will be computed again from its tokens.
  void DropBlocks();

  // Stops the program when the counters disagree.
  void CheckIntegrity() const;

  const uint64_t id;  // ascends in the order of arrival
  const SamplingParams sampling;
  const int32_t sample_index;
  const absl::Time deadline;
  const int64_t num_prompt;
  const absl::Time accepted;
  // Its place among the others: when it came, earlier by the head start that its priority gives.
  const absl::Time turn;
  const std::vector<int32_t> end_ids;  // ids that would end the answer

  std::vector<int32_t> tokens;  // prompt, then answer
  int64_t num_unknown = 0;      // tokens after those, which steps under way draw
  int64_t num_computed = 0;     // tokens[0 .. num_computed) are in the cache
  int64_t num_planned = 0;      // as num_computed, when the steps under way are done
  uint32_t losses = 0;          // how often its blocks were dropped: what steps under way compute
                                // for it is lost then, what they draw is not
  int32_t draw_row = -1;        // of the last step that draws for it: which of its draws
  // Prompt tokens [1, num_scored) have been reported with their log-probabilities. The others need
  // the rows before them computed, so nothing of such a prompt may be taken from a cache.
  int64_t num_scored;
  int64_t scores_planned;  // likewise, when the steps under way are done
  BlockTable blocks;
  BlockKeys keys;
  int64_t published = 0;  // leading blocks that were offered to others, or taken from them
  int64_t cached_prompt_tokens = 0;
  int64_t credit;          // tokens that may still be produced
  bool running = false;    // in the batch
  uint64_t last_step = 0;  // that it had rows in
  bool cancelled = false;
  absl::Duration queue_time;  // until its first step
  bool started = false;       // a step has worked on it; queue_time is set
  // While it waits for a running sequence to compute the prefix that both have: whose, and until
  // how many tokens are computed.
  uint64_t leader = 0;
  int64_t leader_tokens = 0;
};

// Who is served first.
struct ServedBefore {
  bool operator()(const Sequence* a, const Sequence* b) const {
    if (a->turn != b->turn) return a->turn < b->turn;
    return a->id < b->id;
  }
};

// Who of the waiting is admitted first: those that have been in the batch, whose readers have part
// of the answer. They are not more than were admitted once, so they can't keep others out for good.
struct AdmittedBefore {
  bool operator()(const Sequence* a, const Sequence* b) const {
    if (a->started != b->started) return a->started;
    return ServedBefore()(a, b);
  }
};

// Who is served first where the shortest is.
inline bool FewerRowsLeft(const Sequence* a, const Sequence* b) {
  return a->rows_left() < b->rows_left();
}

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_SEQUENCE_H_
