#ifndef QWENSERVE_SERVICES_GENERATOR_SIM_REPLICA_H_
#define QWENSERVE_SERVICES_GENERATOR_SIM_REPLICA_H_

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/runtime/engine.h"
#include "engine/schedule/request.h"
#include "engine/schedule/scheduler.h"
#include "engine/tokenizer/tokenizer.h"
#include "services/generator/sim_script.h"
#include "services/generator/sim_tokens.h"

namespace qwenserve {

// How long a simulated step takes: base + sequences * per_sequence + prompt tokens / prefill_rate.
struct SimTiming {
  absl::Duration base = absl::Milliseconds(20);
  absl::Duration per_sequence = absl::ZeroDuration();
  double prefill_rate = 20000;  // tokens per second; 0 = they take no time
};

struct SimReplicaOptions {
  SchedulerOptions scheduler;  // its fingerprint decides the tokens
  SimTiming timing;
  int64_t mean_tokens = 256;  // of an answer; 0 = only max_tokens ends one
  std::vector<SimRule> rules;
  int64_t crash_after_tokens = 0;  // of all sequences together; 0 = never
  std::function<void()> crash = [] { std::abort(); };
};

// A replica without weights. The engine's own scheduler decides who runs, waits, is refused or
// preempted, and what the prefix cache has, so events and statistics are those of a real replica;
// tokens come from SimTokens or a script, and durations from SimTiming. Sees no clock and has no
// thread: time is an argument, so tests and simulations of many replicas run in virtual time.
//
// Not thread-safe but for Prepare.
class SimReplica {
 public:
  // What can be found out about a request without the replica's state: the costly part of Submit.
  struct Prepared {
    uint64_t state = 0;
    int rule = -1;                        // of the script; -1: none fits
    std::vector<uint64_t> prompt_states;  // before each prompt token, where those are scored
  };

  // `tokenizer` may be null where there are no rules.
  SimReplica(SimReplicaOptions options, SimVocabulary vocabulary,
             std::shared_ptr<const Tokenizer> tokenizer);

  Prepared Prepare(const SequenceRequest& request) const;

  // As Engine::Submit. INTERNAL when resumed_ids are not the beginning of the script's answer:
  // tokens were lost on the way here. RESOURCE_EXHAUSTED where the script refuses.
  absl::StatusOr<uint64_t> Submit(SequenceRequest request, Prepared prepared, absl::Time now);
  void Cancel(uint64_t sequence) { scheduler_.Cancel(sequence); }
  void AddCredit(uint64_t sequence, int64_t tokens) { scheduler_.AddCredit(sequence, tokens); }

  // Begins a step, appends the events of sequences that end before it, and returns how long it
  // takes, which may be for ever; EndStep must follow. nullopt: nothing to do before
  // next_deadline() or a call of the above.
  std::optional<absl::Duration> BeginStep(absl::Time now, std::vector<SequenceEvent>* events);
  void EndStep(absl::Time now, std::vector<SequenceEvent>* events);
  // The step that BeginStep has begun, or the last one.
  uint64_t step() const { return plan_.step; }
  const StepPlan& plan() const { return plan_; }

  void FailAll(const absl::Status& error, absl::Time now, std::vector<SequenceEvent>* events);

  absl::Time next_deadline() const { return scheduler_.next_deadline(); }
  EngineStats Stats(absl::Time now) const;

 private:
  struct Sequence {
    uint64_t state = 0;  // of all tokens so far
    int64_t answer_tokens = 0;
    int rule = -1;
    bool ignore_eos = false;
    bool started = false;
    std::vector<uint64_t> prompt_states;
  };

  absl::Status CheckResumed(const SequenceRequest& request, int rule) const;
  // Whether the rule's fault strikes at this point of the answer: -1 = when first worked on.
  bool Strikes(const Sequence& sequence, SimFault fault, int64_t point);
  absl::Duration TimeOf(const PlanSequence& part);
  void Score(const PlanSequence& part, const Sequence& sequence,
             std::vector<SampledToken>* tokens) const;
  SampledToken Draw(const PlanSequence& part, Sequence* sequence);
  void Forget(const std::vector<SequenceEvent>& events, size_t first);

  const SimReplicaOptions options_;
  const SimTokens tokens_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  Scheduler scheduler_;
  absl::flat_hash_map<uint64_t, Sequence> sequences_;
  std::vector<int64_t> strikes_;  // of each rule's fault, so far
  StepPlan plan_;                 // under way, else the last one
  uint64_t steps_ = 0;
  int64_t drawn_ = 0;
  absl::Time began_ = absl::InfinitePast();
  absl::Time last_progress_ = absl::InfinitePast();
  absl::Duration longest_step_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_SIM_REPLICA_H_
