#ifndef QWENSERVE_ENGINE_SCHEDULE_SCHEDULER_H_
#define QWENSERVE_ENGINE_SCHEDULE_SCHEDULER_H_

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/cache/block_allocator.h"
#include "engine/sample/stop_checker.h"
#include "engine/schedule/request.h"
#include "engine/schedule/sequence.h"
#include "engine/schedule/step_plan.h"

namespace qwenserve {

struct SchedulerOptions {
  int64_t max_batch_tokens = 512;  // rows of one step
  int64_t max_running = 64;        // sequences in one step
  int64_t max_waiting = 1024;
  int64_t max_model_len = 0;  // prompt and answer together
  int64_t num_blocks = 0;     // at least what one sequence of max_model_len needs
  int32_t vocab_size = 0;
  std::vector<int32_t> eos_ids;
};

// Decides what every step works on. Sees no device and no clock: time is an argument.
//
// A sequence is either running (in the batch, its blocks taken) or waiting. A step takes one row of
// each running sequence that is decoding, then chunks of the prefills under way, then admits from
// the waiting, all within the budget of rows. Waiting sequences are admitted resumed ones first,
// then by priority and arrival, and nobody overtakes one that does not fit yet.
//
// When a running sequence needs a block and none is free, first waiting sequences lose theirs, then
// the running sequence that is last in the order (priority, arrival) goes back to waiting; both are
// computed again later, from their tokens, to the same bits. The first in the order can always
// go on, so everybody ends.
//
// A sequence without credit waits, and keeps its blocks until somebody needs them.
//
// Not thread-safe.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);
  ~Scheduler();

  // A handle, never 0 and never used twice. INVALID_ARGUMENT naming the field and the numbers;
  // RESOURCE_EXHAUSTED when max_waiting are waiting.
  absl::StatusOr<uint64_t> Add(SequenceRequest request, absl::Time now);
  // Unknown handles are ignored: the sequence may just have ended.
  void Cancel(uint64_t sequence);
  void AddCredit(uint64_t sequence, int64_t tokens);

  // Ends what was cancelled or is past its deadline (appends to `events`) and plans the next step.
  // No sequences in the plan: nothing can be done now. A plan with sequences must be followed by
  // Commit; SampleRows in it point into the scheduler until then.
  StepPlan Schedule(absl::Time now, std::vector<SequenceEvent>* events);

  // Takes in what the step drew: for each sequence, in the plan's order, its scored tokens and
  // then, if it wants logits, the drawn one. id -1 = no usable logits, which fails that sequence
  // only.
  void Commit(const StepPlan& plan, absl::Span<const SampledToken> tokens,
              std::vector<SequenceEvent>* events);

  // Ends everything with kError, a plan in flight included.
  void FailAll(const absl::Status& error, absl::Time now, std::vector<SequenceEvent>* events);

  // When a waiting sequence expires next: wake up then even without other work.
  absl::Time next_deadline() const { return next_deadline_; }

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t queued_tokens() const;  // of prompts and resumed answers, not computed yet
  int64_t free_blocks() const { return allocator_.num_free(); }
  int64_t total_blocks() const { return allocator_.num_blocks(); }
  uint64_t prompt_tokens() const { return prompt_tokens_; }        // computed
  uint64_t generated_tokens() const { return generated_tokens_; }  // drawn
  uint64_t preemptions() const { return preemptions_; }            // sequences that lost blocks

  // Stops the program when a structure is inconsistent.
  void CheckIntegrity() const;

 private:
  absl::Status Check(const SequenceRequest& request) const;
  void EndDue(absl::Time now, std::vector<SequenceEvent>* events);
  void PlanRunning(bool decoding, absl::Time now, StepPlan* plan, int64_t* budget);
  void Admit(absl::Time now, StepPlan* plan, int64_t* budget);
  void AddToPlan(Sequence* sequence, int64_t rows, absl::Time now, StepPlan* plan);

  // Takes the blocks of all its tokens for a running sequence; false when it had to give way.
  bool Grow(Sequence* sequence);
  // Takes a block holder's blocks among the waiting, the last in order first; false when none of
  // those behind `sequence`, or without credit, holds any.
  bool ReclaimFor(const Sequence* sequence);
  int64_t ReclaimableFor(const Sequence* sequence) const;
  static bool MayLoseBlocksTo(const Sequence* holder, const Sequence* taker);

  void StopRunning(Sequence* sequence);  // to waiting, blocks kept
  void AddRunning(Sequence* sequence);
  void Draw(Sequence* sequence, const SampledToken& token, std::vector<SequenceEvent>* events);
  void FailNumeric(Sequence* sequence, int64_t token, SequenceEvent* event);
  // False when a token could not be scored: the sequence is gone.
  bool TakeScores(Sequence* sequence, absl::Span<const SampledToken> tokens,
                  std::vector<SequenceEvent>* events);
  SequenceEvent& AddEvent(const Sequence& sequence, std::vector<SequenceEvent>* events);
  // Puts the finish into `event` and forgets the sequence.
  void Finish(Sequence* sequence, FinishReason reason, absl::Status error, SequenceEvent* event,
              absl::Time now);

  const SchedulerOptions options_;
  const StopChecker stop_checker_;
  BlockAllocator allocator_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_;  // in the order of ServedBefore
  std::set<Sequence*, AdmittedBefore> waiting_;
  std::vector<Sequence*> in_flight_;  // of the plan not committed yet, in its order
  std::vector<uint64_t> cancelled_;
  absl::Time next_deadline_ = absl::InfiniteFuture();  // not later than the earliest
  absl::Time last_schedule_ = absl::InfinitePast();
  uint64_t last_id_ = 0;
  uint64_t last_step_ = 0;
  uint64_t prompt_tokens_ = 0;
  uint64_t generated_tokens_ = 0;
  uint64_t preemptions_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_SCHEDULER_H_
