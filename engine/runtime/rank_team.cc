#include "engine/runtime/rank_team.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/runtime/node_start.h"
#include "engine/runtime/rank_meeting.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// For followers to leave their step and give their memory back; less when the group has failed and
// one of them may never answer.
constexpr absl::Duration kTeamShutdownGrace = absl::Seconds(5);
constexpr absl::Duration kTeamFailureGrace = absl::Milliseconds(500);

}  // namespace

absl::Status RankTeam::StartNodes(const std::vector<RankSettings>& settings, RankMode mode,
                                  std::vector<std::shared_ptr<NodeChannel>> nodes,
                                  const Checkpoint& checkpoint, int ranks_per_node,
                                  const std::function<void()>& on_failure) {
  NodeStart start;
  start.num_nodes = static_cast<int>(nodes.size()) + 1;
  start.mode = mode;
  start.checkpoint = CheckpointOutline(checkpoint);
  for (const auto& channel : nodes) {
    const auto first = settings.begin() + start.node * ranks_per_node;
    start.ranks.assign(first, first + ranks_per_node);
    QS_RETURN_IF_ERROR(
        channel->Send({.kind = NodeMessage::Kind::kStart, .bytes = NodeStartToJson(start)}));
    ++start.node;
  }
  NodeBridge::Options options;
  options.num_nodes = start.num_nodes;
  options.carry_parts = settings.front().device == "cpu";
  options.step_timeout = settings.front().step_timeout;
  options.on_failure = on_failure;
  bridge_ = std::make_unique<NodeBridge>(group_, std::move(nodes), options);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RankTeam>> RankTeam::Start(
    const std::vector<RankSettings>& settings, RankMode mode, const std::string& rank_binary,
    std::vector<std::shared_ptr<NodeChannel>> nodes, const Checkpoint& checkpoint,
    std::function<void()> on_failure, const LoadProgress& progress) {
  const size_t num_nodes = nodes.size() + 1;
  const int local = static_cast<int>(settings.size() / num_nodes);
  QS_CHECK(!settings.empty() && settings.size() % num_nodes == 0);
  const RankSettings& first = settings.front();
  std::unique_ptr<RankTeam> team(new RankTeam());
  QS_ASSIGN_OR_RETURN(team->group_, RankGroup::Create(static_cast<int>(settings.size())));
  std::vector<int> readers;
  for (int r = 1; r < local; ++r) readers.push_back(r);
  if (num_nodes > 1) {
    QS_RETURN_IF_ERROR(
        team->StartNodes(settings, mode, std::move(nodes), checkpoint, local, on_failure));
    readers.push_back(team->bridge_->plan_reader());
  }
  team->sender_ = std::make_unique<PlanSender>(team->group_, readers, first.step_timeout);
  team->followers_ = std::make_unique<FollowerSet>(team->group_);
  QS_RETURN_IF_ERROR(team->followers_->Start(absl::MakeConstSpan(settings).subspan(1, local - 1),
                                             mode, rank_binary, checkpoint, on_failure));
  absl::StatusOr<std::unique_ptr<ModelRunner>> leader = ModelRunner::Create(
      first, checkpoint,
      [&](Backend& backend) {
        return MeetOtherRanks(first, team->group_,
                              first.limits.max_rows * checkpoint.config().hidden_size, backend);
      },
      progress);
  if (!leader.ok()) {
    team->Abort(leader.status().message());
    return leader.status();
  }
  team->leader_ = *std::move(leader);
  team->watchdog_ =
      WatchRank(team->group_, 0, team->leader_->communicator(), first.step_timeout, on_failure);
  team->memory_report_.emplace(team->group_, 0, team->leader_->backend());
  team->group_->SetPhase(0, RankGroup::Phase::kReady);
  QS_RETURN_IF_ERROR(team->group_->WaitAll(RankGroup::Phase::kReady));
  return team;
}

RankTeam::~RankTeam() {
  if (sender_ == nullptr) return;
  StepPlan shutdown;
  shutdown.shutdown = true;
  // A team that is not complete has followers that are still loading: they are told by the group.
  if (leader_ == nullptr || !sender_->Send(SerializeStepPlan(shutdown)).ok()) {
    group_->Abort("rank 0 ends");
  }
  // Ranks leave a group of devices together, so rank 0 goes before it waits for the others.
  watchdog_.reset();
  leader_.reset();
  const absl::Duration grace = Health().ok() ? kTeamShutdownGrace : kTeamFailureGrace;
  if (followers_ != nullptr) followers_->Join(grace);
  if (bridge_ == nullptr) return;
  for (int r = bridge_->plan_reader(); r < group_->size(); ++r) {
    group_->WaitFor(r, RankGroup::Phase::kEnded, grace);
  }
}

absl::StatusOr<uint64_t> RankTeam::Launch(const StepPlan& plan) {
  group_->BeginStep(0, plan.step);
  launched_steps_.push_back(plan.step);
  if (group_->size() > 1) {
    QS_RETURN_IF_ERROR(sender_->Send(SerializeStepPlan(plan)));
  }
  return leader_->Launch(plan);
}

absl::StatusOr<std::vector<SampledToken>> RankTeam::Collect(uint64_t ticket) {
  QS_ASSIGN_OR_RETURN(std::vector<SampledToken> tokens, leader_->Collect(ticket));
  // What comes of collectives that were cut off is no result.
  QS_RETURN_IF_ERROR(leader_->communicator().Health());
  group_->EndStep(0, launched_steps_.front());
  launched_steps_.pop_front();
  memory_report_->OnStepEnd();
  return tokens;
}

std::vector<RankProgress> RankTeam::Progress() const {
  std::vector<RankProgress> progress;
  for (int r = 0; r < group_->size(); ++r) progress.push_back(group_->Progress(r));
  return progress;
}

}  // namespace qwenserve
