#ifndef QWENSERVE_ENGINE_RUNTIME_RANK_WATCHDOG_H_
#define QWENSERVE_ENGINE_RUNTIME_RANK_WATCHDOG_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/parallel/rank_group.h"
#include "kernels/communicator.h"
#include "kernels/steady_clock.h"

namespace qwenserve {

// Decides when a rank has to be given up: an error of its communicator, the end of its group, or a
// step that has been under way for too long. One thread.
class RankWatch {
 public:
  RankWatch(std::shared_ptr<RankGroup> group, int rank, Communicator& communicator,
            absl::Duration step_timeout)
      : group_(std::move(group)),
        rank_(rank),
        communicator_(communicator),
        step_timeout_(step_timeout) {}

  // OK, or why. A step's time begins when it is first seen.
  absl::Status Look(absl::Duration now);

 private:
  struct Step {
    uint64_t finished = 0;
    absl::Duration seen;
  };

  const std::shared_ptr<RankGroup> group_;
  const int rank_;
  Communicator& communicator_;
  const absl::Duration step_timeout_;
  std::optional<Step> step_;
};

struct WatchdogOptions {
  absl::Duration step_timeout = absl::Seconds(120);
  absl::Duration abort_timeout = absl::Seconds(5);  // for Communicator::Abort to return
  absl::Duration interval = absl::Milliseconds(100);
  SteadyClock* clock = &SteadyClock::Real();
  // Called when the group has ended, from the watchdog's thread; null: nobody.
  std::function<void()> on_failure = nullptr;
  // What is left when even Abort hangs; null: says why in the log and ends the process with status
  // 1 and without destructors.
  std::function<void(const absl::Status& reason)> end_process = nullptr;
};

// The thread that watches a rank whose collectives are ops of a device's queue: there a lost peer
// is no error of any call but a kernel that never ends. It ends the group, so that the other ranks'
// watchdogs and waits follow, and then this rank's collectives by Communicator::Abort; that may
// hang too, and then the process goes.
//
// `communicator` must outlive it.
class RankWatchdog {
 public:
  RankWatchdog(std::shared_ptr<RankGroup> group, int rank, Communicator& communicator,
               WatchdogOptions options);
  ~RankWatchdog();

 private:
  void Run();
  void GiveUp(const absl::Status& reason);

  const std::shared_ptr<RankGroup> group_;
  Communicator& communicator_;
  const WatchdogOptions options_;
  RankWatch watch_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// A watchdog where one is needed, else null.
std::unique_ptr<RankWatchdog> WatchRank(std::shared_ptr<RankGroup> group, int rank,
                                        Communicator& communicator, absl::Duration step_timeout,
                                        std::function<void()> on_failure);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_RANK_WATCHDOG_H_
