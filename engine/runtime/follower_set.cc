#include "engine/runtime/follower_set.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/runtime/follower.h"

namespace qwenserve {

absl::Status FollowerSet::Start(absl::Span<const RankSettings> ranks, RankMode mode,
                                const std::string& rank_binary, const Checkpoint& checkpoint,
                                const std::function<void()>& on_failure) {
  for (const RankSettings& settings : ranks) {
    if (mode == RankMode::kThreads) {
      threads_.emplace_back([group = group_, settings, &checkpoint, on_failure] {
        if (!FollowPlans(settings, checkpoint, group).ok()) on_failure();
      });
      continue;
    }
    auto on_exit = [group = group_, rank = settings.rank, on_failure](const std::string& how) {
      if (how == "exit status 0") return;
      group->Abort(absl::StrCat("the process of rank ", rank, " has ended: ", how));
      on_failure();
    };
    QS_ASSIGN_OR_RETURN(std::unique_ptr<ChildProcess> child,
                        ChildProcess::Start(FollowerArguments(rank_binary, settings), group_->fd(),
                                            std::move(on_exit)));
    processes_.push_back(std::move(child));
  }
  return absl::OkStatus();
}

void FollowerSet::Join(absl::Duration grace_of_processes) {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  for (const auto& process : processes_) process->WaitFor(grace_of_processes);
  processes_.clear();  // kills what still runs
}

std::vector<pid_t> FollowerSet::process_ids() const {
  std::vector<pid_t> ids;
  for (const auto& process : processes_) ids.push_back(process->pid());
  return ids;
}

}  // namespace qwenserve
