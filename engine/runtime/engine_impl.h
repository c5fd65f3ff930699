#ifndef QWENSERVE_ENGINE_RUNTIME_ENGINE_IMPL_H_
#define QWENSERVE_ENGINE_RUNTIME_ENGINE_IMPL_H_

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/loader/checkpoint.h"
#include "engine/runtime/engine.h"
#include "engine/runtime/event_queue.h"
#include "engine/runtime/rank_team.h"
#include "engine/schedule/scheduler.h"

namespace qwenserve {

// The step thread is rank 0: it loads the model, and then takes turns between the scheduler, under
// the lock, and the ranks, without it. The lock is held for microseconds, so callers never wait for
// a step. Where steps run ahead (EngineOptions) the next one is launched before the end of the last
// one is awaited. When a rank fails the thread ends all sequences and itself.
class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, StepCallback on_step);
  ~EngineImpl() override;

  // Returns when the model is loaded and has run once.
  absl::Status Start(const LoadProgress& progress);

  absl::StatusOr<uint64_t> Submit(SequenceRequest request) override;
  void Cancel(uint64_t sequence) override;
  void AddCredit(uint64_t sequence, int64_t tokens) override;
  EngineStats Stats() const override;
  const EngineInfo& info() const override { return info_; }
  absl::Status Health() const override;

  // Follower processes, for tests that kill one.
  std::vector<pid_t> process_ids() const { return team_->process_ids(); }

 private:
  using Clock = std::chrono::steady_clock;
  enum class State { kStarting, kServing, kStopping };

  void Run(const LoadProgress& progress);
  absl::Status Load(const LoadProgress& progress);
  absl::Status RunOnce();  // one forward pass, to prove that there can be more
  void ServeUntilStopped();
  absl::Status Launch(StepPlan plan);
  absl::Status CollectOldest();
  // The group's end, whose first reason is kept: a rank's death, not the time-out that it caused.
  absl::Status Broken(const absl::Status& error);
  void Fail(const absl::Status& reason);
  void Deliver(uint64_t step, std::vector<SequenceEvent> events);
  void Wake();
  absl::Duration StepAge() const;  // under the lock

  const EngineOptions options_;
  std::unique_ptr<Checkpoint> checkpoint_;
  EngineInfo info_;
  EventQueue events_;
  // Made and destroyed by the step thread; set before Start returns.
  std::unique_ptr<RankTeam> team_;
  // The step thread's own: steps that were launched and not collected, the oldest first.
  struct UnderWay {
    StepPlan plan;
    uint64_t ticket = 0;
    Clock::time_point launched;
  };
  std::deque<UnderWay> under_way_;
  size_t max_under_way_ = 1;
  Clock::time_point last_end_;       // of a step
  uint64_t last_finished_step_ = 0;  // by the scheduler's count

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::unique_ptr<Scheduler> scheduler_;
  State state_ = State::kStarting;
  absl::Status start_status_;
  absl::Status failure_;
  bool changed_ = false;             // the scheduler may have work again
  Clock::time_point last_progress_;  // when a step began or ended
  uint64_t steps_ = 0;
  uint64_t rows_from_pairs_ = 0;
  uint64_t rows_gathered_ = 0;
  absl::Duration longest_step_;

  std::thread thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_ENGINE_IMPL_H_
