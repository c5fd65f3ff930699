#include "engine/runtime/rank_team.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/runtime/follower.h"
#include "engine/runtime/rank_meeting.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// For followers to leave their step and give their memory back; less when the group has failed and
// one of them may never answer.
constexpr absl::Duration kShutdownGrace = absl::Seconds(5);
constexpr absl::Duration kFailureGrace = absl::Milliseconds(500);

}  // namespace

absl::Status RankTeam::StartFollowers(const std::vector<RankSettings>& settings, RankMode mode,
                                      const std::string& rank_binary, const Checkpoint& checkpoint,
                                      const std::function<void()>& on_failure) {
  for (size_t r = 1; r < settings.size(); ++r) {
    if (mode == RankMode::kThreads) {
      threads_.emplace_back([group = group_, mine = settings[r], &checkpoint, on_failure] {
        if (!FollowPlans(mine, checkpoint, group).ok()) on_failure();
      });
      continue;
    }
    auto on_exit = [group = group_, r, on_failure](const std::string& how) {
      if (how == "exit status 0") return;
      group->Abort(absl::StrCat("the process of rank ", r, " has ended: ", how));
      on_failure();
    };
    QS_ASSIGN_OR_RETURN(std::unique_ptr<ChildProcess> child,
                        ChildProcess::Start(FollowerArguments(rank_binary, settings[r]),
                                            group_->fd(), std::move(on_exit)));
    processes_.push_back(std::move(child));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RankTeam>> RankTeam::Start(
    const std::vector<RankSettings>& settings, RankMode mode, const std::string& rank_binary,
    const Checkpoint& checkpoint, std::function<void()> on_failure, const LoadProgress& progress) {
  QS_CHECK(!settings.empty());
  const RankSettings& first = settings.front();
  std::unique_ptr<RankTeam> team(new RankTeam());
  QS_ASSIGN_OR_RETURN(team->group_, RankGroup::Create(static_cast<int>(settings.size())));
  team->sender_ = std::make_unique<PlanSender>(team->group_, first.step_timeout);
  QS_RETURN_IF_ERROR(team->StartFollowers(settings, mode, rank_binary, checkpoint, on_failure));
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
  team->watchdog_ = WatchRank(team->group_, 0, team->leader_->communicator(), first.step_timeout);
  team->group_->SetPhase(0, RankGroup::Phase::kReady);
  QS_RETURN_IF_ERROR(team->group_->WaitAll(RankGroup::Phase::kReady));
  return team;
}

RankTeam::~RankTeam() {
  if (group_ == nullptr) return;
  StepPlan shutdown;
  shutdown.shutdown = true;
  // A team that is not complete has followers that are still loading: they are told by the group.
  if (leader_ == nullptr || !sender_->Send(SerializeStepPlan(shutdown)).ok()) {
    group_->Abort("rank 0 ends");
  }
  for (std::thread& thread : threads_) thread.join();
  const absl::Duration grace = Health().ok() ? kShutdownGrace : kFailureGrace;
  for (const auto& process : processes_) process->WaitFor(grace);
  processes_.clear();  // kills what still runs
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
  return tokens;
}

std::vector<RankProgress> RankTeam::Progress() const {
  std::vector<RankProgress> progress;
  for (int r = 0; r < group_->size(); ++r) progress.push_back(group_->Progress(r));
  return progress;
}

std::vector<pid_t> RankTeam::process_ids() const {
  std::vector<pid_t> ids;
  for (const auto& process : processes_) ids.push_back(process->pid());
  return ids;
}

}  // namespace qwenserve
