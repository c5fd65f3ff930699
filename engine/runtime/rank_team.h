#ifndef QWENSERVE_ENGINE_RUNTIME_RANK_TEAM_H_
#define QWENSERVE_ENGINE_RUNTIME_RANK_TEAM_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/loader/checkpoint.h"
#include "engine/parallel/plan_ring.h"
#include "engine/parallel/rank_group.h"
#include "engine/runtime/child_process.h"
#include "engine/runtime/engine_options.h"
#include "engine/runtime/model_runner.h"
#include "engine/runtime/rank_settings.h"
#include "engine/runtime/rank_watchdog.h"

namespace qwenserve {

// All ranks of a replica on this node: rank 0 on the calling thread, the others as threads or
// processes. Followers do what the plans say; rank 0's Launch hands every plan to them first.
//
// Start, Launch, Collect and the destructor belong to one thread; Health and Progress to any.
class RankTeam {
 public:
  // `settings`: one per rank. `on_failure` is called, from any thread, when a follower has failed;
  // Health then says why. Returns when every rank is ready. `checkpoint` must outlive the team.
  static absl::StatusOr<std::unique_ptr<RankTeam>> Start(
      const std::vector<RankSettings>& settings, RankMode mode, const std::string& rank_binary,
      const Checkpoint& checkpoint, std::function<void()> on_failure, const LoadProgress& progress);
  // Lets the followers end by themselves; processes that don't are killed.
  ~RankTeam();

  absl::StatusOr<uint64_t> Launch(const StepPlan& plan);
  absl::StatusOr<std::vector<SampledToken>> Collect(uint64_t ticket);

  // Ends the group; the first reason stays.
  void Abort(absl::string_view reason) { group_->Abort(reason); }
  absl::Status Health() const { return group_->Health(); }
  std::vector<RankProgress> Progress() const;

  const ModelRunner& leader() const { return *leader_; }
  // Follower processes, for tests that kill one.
  std::vector<pid_t> process_ids() const;

 private:
  RankTeam() = default;
  absl::Status StartFollowers(const std::vector<RankSettings>& settings, RankMode mode,
                              const std::string& rank_binary, const Checkpoint& checkpoint,
                              const std::function<void()>& on_failure);

  std::shared_ptr<RankGroup> group_;
  std::unique_ptr<PlanSender> sender_;
  std::unique_ptr<ModelRunner> leader_;
  std::unique_ptr<RankWatchdog> watchdog_;  // goes before what it watches
  std::deque<uint64_t> launched_steps_;     // numbers of the plans not collected yet
  std::vector<std::thread> threads_;
  std::vector<std::unique_ptr<ChildProcess>> processes_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_RANK_TEAM_H_
