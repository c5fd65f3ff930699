#include "engine/runtime/node_follower.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/loader/checkpoint.h"
#include "engine/parallel/node_bridge.h"
#include "engine/runtime/follower_set.h"
#include "engine/runtime/node_start.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kFailureGrace = absl::Milliseconds(500);
constexpr absl::Duration kShutdownGrace = absl::Seconds(5);

absl::StatusOr<NodeStart> TakeStart(const NodeFollowerOptions& options, NodeChannel& leader) {
  QS_ASSIGN_OR_RETURN(const NodeMessage message, leader.Receive());
  if (message.kind == NodeMessage::Kind::kAbort) return absl::UnavailableError(message.bytes);
  if (message.kind != NodeMessage::Kind::kStart) {
    return absl::InternalError("the leader does not begin with the start");
  }
  QS_ASSIGN_OR_RETURN(NodeStart start, NodeStartFromJson(message.bytes));
  for (RankSettings& rank : start.ranks) {
    rank.model_dir = options.model_dir;
    if (!options.nccl_library.empty()) rank.nccl_library = options.nccl_library;
  }
  return start;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSame(const NodeFollowerOptions& options,
                                                     const NodeStart& start) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(options.model_dir));
  if (CheckpointOutline(*checkpoint) != start.checkpoint) {
    return absl::FailedPreconditionError(
        absl::StrCat("\"", options.model_dir, "\" is not the checkpoint that the leader has"));
  }
  return checkpoint;
}

absl::Status RunRanks(const NodeFollowerOptions& options, const NodeStart& start,
                      const Checkpoint& checkpoint, std::shared_ptr<NodeChannel> leader) {
  const RankSettings& first = start.ranks.front();
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<RankGroup> group, RankGroup::Create(first.tp));
  NodeBridge::Options bridging;
  bridging.node = start.node;
  bridging.num_nodes = start.num_nodes;
  bridging.carry_parts = first.device == "cpu";
  bridging.step_timeout = first.step_timeout;
  NodeBridge bridge(group, {std::move(leader)}, bridging);
  FollowerSet followers(group);
  absl::Status status =
      followers.Start(start.ranks, start.mode, options.rank_binary, checkpoint, [] {});
  if (status.ok()) status = group->WaitAll(RankGroup::Phase::kReady);
  if (status.ok() && options.on_ready != nullptr) options.on_ready();
  for (size_t i = 0; i < start.ranks.size() && status.ok(); ++i) {
    const int rank = start.ranks[i].rank;
    if (!group->WaitFor(rank, RankGroup::Phase::kEnded, absl::InfiniteDuration())) {
      status = group->Health();
    }
  }
  if (!status.ok()) group->Abort(absl::StrCat("node ", start.node, ": ", status.message()));
  followers.Join(status.ok() ? kShutdownGrace : kFailureGrace);
  return status;
}

}  // namespace

absl::Status FollowNode(const NodeFollowerOptions& options, std::shared_ptr<NodeChannel> leader) {
  const auto refuse = [&leader](const absl::Status& status) {
    // The leader may be gone, and then needs no telling.
    leader->Send({.kind = NodeMessage::Kind::kAbort, .bytes = std::string(status.message())})
        .IgnoreError();
    leader->Close();
    return status;
  };
  const absl::StatusOr<NodeStart> start = TakeStart(options, *leader);
  if (!start.ok()) return refuse(start.status());
  spdlog::info("node {} of {}: ranks {} to {}", start->node, start->num_nodes,
               start->ranks.front().rank, start->ranks.back().rank);
  const absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = OpenSame(options, *start);
  if (!checkpoint.ok()) return refuse(checkpoint.status());
  return RunRanks(options, *start, **checkpoint, std::move(leader));
}

}  // namespace qwenserve
