#ifndef QWENSERVE_ENGINE_SCHEDULE_SCHEDULER_H_
#define QWENSERVE_ENGINE_SCHEDULE_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/cache/block_allocator.h"
#include "engine/cache/prefix_cache.h"
#include "engine/sample/stop_checker.h"
#include "engine/schedule/request.h"
#include "engine/schedule/scheduler_counters.h"
#include "engine/schedule/sequence.h"
#include "engine/schedule/step_cost.h"
#include "engine/schedule/step_plan.h"

namespace qwenserve {

struct SchedulerOptions {
  int64_t max_batch_tokens = 512;  // rows of one step
  int64_t max_running = 64;        // sequences in one step; at most max_batch_tokens take effect
  int64_t max_waiting = 1024;
  int64_t max_model_len = 0;  // prompt and answer together
  int64_t num_blocks = 0;     // at least what one sequence of max_model_len needs
  int32_t vocab_size = 0;
  std::vector<int32_t> eos_ids;

  bool prefix_cache = true;
  std::string fingerprint;  // of the numerics: part of the prefix cache's keys
  // Which of the rope tables rotates a prompt of so many tokens; null = there is one for all.
  std::function<int64_t(int64_t prompt_tokens)> rope_variant;

  // How long a step may take when prefills share it with decoding sequences; 0 = twice what the
  // decoding ones take alone, as measured. Not 0: also for steps that only prefill.
  absl::Duration max_step;
  // For a KV format whose scales depend on the whole prompt: a prompt is computed in one step,
  // answers one row at a time even after a preemption, and nothing comes from the prefix cache.
  bool whole_prompts = false;
  // A step may be planned while the one before is under way: README.md, "One step ahead".
  bool run_ahead = false;
  // Whether a draw may depend on the token before it though the host does not know that one yet
  // (Backend::reads_last_id).
  bool reads_last_id = false;

  // One priority more is worth having come so much earlier.
  absl::Duration priority_head_start = absl::Seconds(10);
  // What a sequence that was begun elsewhere is worth: its reader waits in mid-answer.
  absl::Duration resumed_head_start = absl::Minutes(1);
};

// Decides what every step works on. Sees no device and no clock: time is an argument. README.md in
// this folder says by which rules, and why nobody starves.
//
// Not thread-safe.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);
  ~Scheduler();

  // A handle, never 0 and never used twice. INVALID_ARGUMENT naming the field and the numbers;
  // RESOURCE_EXHAUSTED when max_waiting are waiting, or when by what was measured the sequence
  // can't start before its deadline; DEADLINE_EXCEEDED when that has passed.
  absl::StatusOr<uint64_t> Add(SequenceRequest request, absl::Time now);
  // Unknown handles are ignored: the sequence may just have ended.
  void Cancel(uint64_t sequence);
  void AddCredit(uint64_t sequence, int64_t tokens);

  // Ends what was cancelled or is past its deadline (appends to `events`) and plans the next step.
  // No sequences in the plan: nothing can be done now, or not before what is under way is
  // committed. A plan with sequences must be followed by its Commit; with run_ahead there may be
  // one more Schedule before. SampleRows in it point into the scheduler until Schedule or Commit is
  // called.
  StepPlan Schedule(absl::Time now, std::vector<SequenceEvent>* events);

  // Takes in what the oldest step under way drew: for each sequence, in the plan's order, its
  // scored tokens and then, if it wants logits, the drawn one. id -1 = no usable logits, which
  // fails that sequence only.
  void Commit(const StepPlan& plan, absl::Span<const SampledToken> tokens,
              std::vector<SequenceEvent>* events);

  // How long the last committed step took, what ran before it not counted. What is learnt from it
  // decides the size of the next steps and which deadlines are refused; without, sizes are the
  // largest.
  void StepTook(absl::Duration duration);

  // Ends everything with kError, plans in flight included.
  void FailAll(const absl::Status& error, absl::Time now, std::vector<SequenceEvent>* events);

  // When a waiting sequence expires next: wake up then even without other work.
  absl::Time next_deadline() const { return next_deadline_; }

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t queued_tokens() const;  // of prompts and resumed answers, not computed yet
  int64_t free_blocks() const { return allocator_.num_free(); }  // those of cached prefixes too
  int64_t total_blocks() const { return allocator_.num_blocks(); }
  int64_t cached_blocks() const { return cache_.size(); }  // in use or not
  SchedulerCounters counters() const;
  const StepCost& cost() const { return cost_; }
  // How long the oldest step under way should take by what was measured; 0 = there is none, or
  // nothing like it was measured.
  absl::Duration ExpectedStep() const;

  // Stops the program when a structure is inconsistent.
  void CheckIntegrity() const;

 private:
  // A plan that is not committed yet.
  struct Part {
    Sequence* sequence = nullptr;  // null when it has ended since
    uint32_t losses = 0;           // of the sequence, when it was planned
    bool draws = false;
  };
  struct Step {
    uint64_t number = 0;
    std::vector<Part> parts;  // in the plan's order
    int32_t draws = 0;
    StepShape shape;
    bool was_full = false;  // all places were taken
  };

  // What the step that is being planned may still take in.
  struct Budget {
    int64_t rows = 0;
    bool timed = false;   // prefill rows have to fit into `time`
    absl::Duration time;  // left for them
    int64_t least = 0;    // prefill rows that are granted whatever they take
  };
  using Leaders = absl::flat_hash_map<BlockKey, const Sequence*>;

  absl::Status Check(const SequenceRequest& request) const;
  // What has to be computed before a sequence that comes now: by turns, or by length.
  struct Ahead {
    double rows = 0;
    int64_t sequences = 0;
  };
  Ahead AheadOf(const Sequence& sequence, bool by_length) const;
  double SecondsBehind(const Ahead& ahead) const;  // at least, by what was measured
  absl::Status CheckDeadline(const Sequence& sequence, absl::Time now) const;
  void EndDue(absl::Time now, std::vector<SequenceEvent>* events);
  // Of the running ones, those that have a place in the step that is planned: not those that draw
  // their last token in the one before.
  int64_t num_staying() const { return num_running() - num_leaving_; }
  int64_t CountLeaving() const;
  // Whether somebody can't be planned before the host knows what it is drawing now.
  bool MustKnowDraws() const;

  void PlanDecoding(absl::Time now, StepPlan* plan, Budget* budget);
  void PlanPrefill(bool shortest_first, absl::Time now, StepPlan* plan, Budget* budget);
  void LimitPrefill(Budget* budget);
  absl::Duration StepTarget(int64_t decode_rows) const;
  // In the order of turns.
  void Admit(absl::Time now, StepPlan* plan, Budget* budget);
  // Those that have less to compute than every prefill under way.
  void AdmitShort(absl::Time now, StepPlan* plan, Budget* budget);
  enum class Admission { kAdmitted, kFollows, kNoRows, kNoRoom };
  Admission TryAdmit(Sequence* sequence, Leaders* leaders, int64_t spare, absl::Time now,
                     StepPlan* plan, Budget* budget);
  // Takes a waiting sequence's blocks; false when there is no room for it and `spare` blocks more.
  bool TakeRoom(Sequence* sequence, int64_t spare);
  int64_t RowsFor(const Sequence& sequence, const Budget& budget) const;
  void AddToPlan(Sequence* sequence, int64_t rows, absl::Time now, StepPlan* plan, Budget* budget);

  // Which of the rows are scored.
  static void PlanScores(Sequence* sequence, int64_t rows, PlanSequence* part);

  // Lets it begin with the blocks that are there already.
  void ShareCached(Sequence* sequence) const;
  void Publish(Sequence* sequence);
  void CountLookup(Sequence* sequence);
  // Who computes which block next.
  Leaders FindLeaders() const;
  void AddLeader(Sequence* sequence, Leaders* leaders) const;
  // Whether it does better to wait for a prefix that another one is computing.
  bool Follow(Sequence* sequence, const Leaders& leaders) const;
  bool StillFollows(const Sequence& sequence) const;

  // Takes the blocks of all its tokens for a running sequence; false when it had to give way.
  bool Grow(Sequence* sequence);
  // Takes a block holder's blocks among the waiting, the last in order first; false when none of
  // those behind `sequence`, or without credit, holds any.
  bool ReclaimFor(const Sequence* sequence);
  // Blocks that would be free if all of those had given theirs.
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
  const int64_t max_running_;
  const bool sharing_;
  const StopChecker stop_checker_;
  BlockAllocator allocator_;
  PrefixCache cache_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_;  // in the order of ServedBefore
  std::set<Sequence*, AdmittedBefore> waiting_;
  std::deque<Step> in_flight_;  // oldest first
  Step planned_;                // the one that is being planned
  int64_t num_leaving_ = 0;     // when it is: see num_staying
  Step committed_;              // the last one
  std::vector<uint64_t> cancelled_;
  absl::Time next_deadline_ = absl::InfiniteFuture();  // not later than the earliest
  absl::Time last_schedule_ = absl::InfinitePast();
  uint64_t last_id_ = 0;
  uint64_t last_step_ = 0;
  SchedulerCounters counters_;

  StepCost cost_;
  int64_t mixed_steps_ = 0;      // with decoding and prefill, since the last that only decoded
  bool shortest_first_ = false;  // of the next step's prefills
  bool prompt_first_ = false;    // whole_prompts: the next step is for a prompt that found no room
  // Steps while the batch was full, the older the less they count: how fast places become free.
  int64_t finishes_ = 0;  // in the last step
  double full_seconds_ = 0;
  double full_finishes_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_SCHEDULER_H_
