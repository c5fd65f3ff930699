#ifndef QWENSERVE_ENGINE_RUNTIME_RANK_TEAM_H_
#define QWENSERVE_ENGINE_RUNTIME_RANK_TEAM_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/loader/checkpoint.h"
#include "engine/parallel/node_bridge.h"
#include "engine/parallel/node_channel.h"
#include "engine/parallel/plan_ring.h"
#include "engine/parallel/rank_group.h"
#include "engine/runtime/device_memory_report.h"
#include "engine/runtime/engine_options.h"
#include "engine/runtime/follower_set.h"
#include "engine/runtime/model_runner.h"
#include "engine/runtime/rank_settings.h"
#include "engine/runtime/rank_watchdog.h"

namespace qwenserve {

// The ranks of a replica, of which rank 0 is on the calling thread, the others of this node are
// threads or processes, and those of other nodes are reached through channels. Followers do what
// the plans say; rank 0's Launch hands every plan to them first.
//
// Start, Launch, Collect and the destructor belong to one thread; Health and Progress to any.
class RankTeam {
 public:
  // `settings`: one per rank, the same number for each node. `nodes`: the way to each further node,
  // which waits for its start (node_follower.h). `on_failure` is called, from any thread, when
  // another rank has failed; Health then says why. Returns when every rank is ready. `checkpoint`
  // must outlive the team.
  static absl::StatusOr<std::unique_ptr<RankTeam>> Start(
      const std::vector<RankSettings>& settings, RankMode mode, const std::string& rank_binary,
      std::vector<std::shared_ptr<NodeChannel>> nodes, const Checkpoint& checkpoint,
      std::function<void()> on_failure, const LoadProgress& progress);
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
  std::vector<pid_t> process_ids() const { return followers_->process_ids(); }

 private:
  RankTeam() = default;
  absl::Status StartNodes(const std::vector<RankSettings>& settings, RankMode mode,
                          std::vector<std::shared_ptr<NodeChannel>> nodes,
                          const Checkpoint& checkpoint, int ranks_per_node,
                          const std::function<void()>& on_failure);

  std::shared_ptr<RankGroup> group_;
  std::unique_ptr<PlanSender> sender_;
  std::unique_ptr<ModelRunner> leader_;
  std::unique_ptr<RankWatchdog> watchdog_;           // goes before what it watches
  std::optional<DeviceMemoryReport> memory_report_;  // likewise
  std::deque<uint64_t> launched_steps_;              // numbers of the plans not collected yet
  std::unique_ptr<FollowerSet> followers_;
  std::unique_ptr<NodeBridge> bridge_;  // null where there is one node
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_RANK_TEAM_H_
