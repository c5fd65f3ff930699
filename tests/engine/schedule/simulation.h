#ifndef QWENSERVE_TESTS_ENGINE_SCHEDULE_SIMULATION_H_
#define QWENSERVE_TESTS_ENGINE_SCHEDULE_SIMULATION_H_

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <vector>

#include "engine/schedule/scheduler.h"
#include "tests/engine/schedule/fake_device.h"

namespace qwenserve {

// A random load on a scheduler over a fake device and a virtual clock, all of it decided by the
// seed: prompts with common beginnings, samples of one prompt, answers that become prompts,
// tenants, priorities, deadlines, cancels, credit that runs out, failovers, rows without a finite
// logit, and a KV cache that is mostly too small. Fails the test where a rule is broken.
// `run_ahead`: steps are planned while the one before is under way.
class Simulation {
 public:
  Simulation(uint32_t seed, bool run_ahead);
  void Run();

  SchedulerCounters counters() const { return scheduler_.counters(); }

 private:
  // What one client sent, and what it must get.
  struct Client {
    std::vector<int32_t> prompt;
    std::vector<int32_t> expected;  // the whole answer, by the fake model alone
    FinishReason expected_finish = FinishReason::kNone;
    std::vector<int32_t> received;  // resumed ids included
    bool was_complete = false;      // before it came here
    bool patient = false;           // has credit for all of it
    int64_t credit = 0;             // given and not used
    bool cancelled = false;
    uint64_t cancel_step = 0;
    absl::Time accepted;
    size_t rows = 0;  // to be computed before its first token
    absl::Time turn;
    absl::Time started;
    absl::Time deadline = absl::InfiniteFuture();
    int64_t cached = 0;
    bool scored = false;          // wants its prompt's log-probabilities
    std::vector<int32_t> scores;  // the prompt from its second token on
    int finishes = 0;
    FinishReason finish = FinishReason::kNone;
  };

  int Pick(int low, int high);
  bool OneIn(int n) { return Pick(1, n) == 1; }
  SchedulerOptions RandomOptions(bool run_ahead);
  std::vector<int32_t> RandomPrompt();
  void SubmitGroup();
  void Submit(SequenceRequest request);
  bool MustRefuse(const SequenceRequest& request) const;
  // Cancels and credit, at any moment between two calls of the scheduler.
  void Disturb();
  // Plans and launches one step, and takes in the oldest one when enough are under way.
  void Step();
  void Launch(StepPlan plan);
  void CollectOldest();
  void CheckPlan(const StepPlan& plan) const;
  absl::Duration Duration(const StepPlan& plan);
  void Receive(const std::vector<SequenceEvent>& events);
  void CheckEnd(uint64_t id, const Client& client);
  void CheckTurns() const;
  void CheckAccounts() const;

  std::mt19937 random_;
  const SchedulerOptions options_;
  const bool timed_;  // the scheduler learns how long steps take
  Scheduler scheduler_;
  FakeDevice device_;
  struct UnderWay {
    StepPlan plan;
    std::vector<SampledToken> tokens;
  };
  std::deque<UnderWay> under_way_;
  absl::Time now_ = absl::UnixEpoch();
  std::vector<std::vector<int32_t>> beginnings_;
  std::map<uint64_t, Client> clients_;
  int submitted_ = 0;
  int open_ = 0;
  bool broken_rows_ = false;  // some row had no finite logit
  uint64_t step_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_SCHEDULE_SIMULATION_H_
