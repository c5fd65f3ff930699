#include "engine/runtime/follower.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/parallel/plan_ring.h"
#include "engine/runtime/child_process.h"
#include "engine/runtime/device_memory_report.h"
#include "engine/runtime/model_runner.h"
#include "engine/runtime/rank_meeting.h"
#include "engine/runtime/rank_watchdog.h"
#include "engine/schedule/step_plan.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr char kFollowerFlag[] = "--follower-rank";

// How long a step under way waits for the plan of the next one before its end is awaited: rank 0
// sends that plan at once if it has anything to do.
constexpr absl::Duration kNextPlan = absl::Milliseconds(2);

absl::Status Follow(const RankSettings& settings, const Checkpoint& checkpoint,
                    const std::shared_ptr<RankGroup>& group) {
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<ModelRunner> runner,
                      ModelRunner::Create(
                          settings, checkpoint,
                          [&](Backend& backend) {
                            return MeetOtherRanks(
                                settings, group,
                                settings.limits.max_rows * checkpoint.config().hidden_size,
                                backend);
                          },
                          nullptr));
  const std::unique_ptr<RankWatchdog> watchdog =
      WatchRank(group, settings.rank, runner->communicator(), settings.step_timeout, nullptr);
  DeviceMemoryReport memory_report(group, settings.rank, runner->backend());
  group->SetPhase(settings.rank, RankGroup::Phase::kReady);
  PlanReceiver receiver(group, settings.rank);
  std::optional<uint64_t> under_way;  // the step's number
  uint64_t ticket = 0;
  const auto collect = [&]() -> absl::Status {
    QS_RETURN_IF_ERROR(runner->Collect(ticket).status());
    group->EndStep(settings.rank, *std::exchange(under_way, std::nullopt));
    memory_report.OnStepEnd();
    return absl::OkStatus();
  };
  while (true) {
    if (under_way.has_value() && !(settings.run_ahead && receiver.Arrives(kNextPlan))) {
      QS_RETURN_IF_ERROR(collect());
    }
    QS_ASSIGN_OR_RETURN(const std::string message, receiver.Receive());
    QS_ASSIGN_OR_RETURN(const StepPlan plan, ParseStepPlan(message));
    if (plan.shutdown) return under_way.has_value() ? collect() : absl::OkStatus();
    group->BeginStep(settings.rank, plan.step);
    QS_ASSIGN_OR_RETURN(const uint64_t launched, runner->Launch(plan));
    if (under_way.has_value()) QS_RETURN_IF_ERROR(collect());
    under_way = plan.step;
    ticket = launched;
  }
}

absl::Status RunAttached(absl::string_view json) {
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<RankGroup> group,
                      RankGroup::Attach(ChildProcess::kInheritedFd));
  const absl::StatusOr<RankSettings> settings = SettingsFromJson(json);
  if (!settings.ok()) {
    group->Abort(settings.status().message());
    return settings.status();
  }
  const absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      Checkpoint::Open(settings->model_dir, settings->load_format);
  if (!checkpoint.ok()) {
    group->Abort(checkpoint.status().message());
    return checkpoint.status();
  }
  return FollowPlans(*settings, **checkpoint, group);
}

}  // namespace

absl::Status FollowPlans(const RankSettings& settings, const Checkpoint& checkpoint,
                         std::shared_ptr<RankGroup> group) {
  absl::Status status = Follow(settings, checkpoint, group);
  // Has no effect when the error is that the group has ended.
  const std::string name = absl::StrCat("rank ", settings.rank, ": ");
  if (!status.ok()) {
    const bool named = absl::StartsWith(status.message(), name);
    group->Abort(absl::StrCat(named ? "" : name, status.message()));
  }
  if (status.ok()) group->SetPhase(settings.rank, RankGroup::Phase::kEnded);
  return status;
}

std::vector<std::string> FollowerArguments(const std::string& binary,
                                           const RankSettings& settings) {
  return {binary, kFollowerFlag, absl::StrCat(getpid()), SettingsToJson(settings)};
}

bool IsFollowerCommand(int argc, char** argv) {
  return argc == 4 && std::strcmp(argv[1], kFollowerFlag) == 0;
}

int RunFollower(int argc, char** argv) {
  int parent = 0;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before the line above.
  if (argc != 4 || !absl::SimpleAtoi(argv[2], &parent) || getppid() != parent) return 2;
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  // The standard output is the parent's, and a machine reads it.
  spdlog::set_default_logger(spdlog::stderr_logger_mt("rank"));
  const absl::Status status = RunAttached(argv[3]);
  if (status.ok()) return 0;
  spdlog::error("rank process ends: {}", std::string(status.message()));
  return 1;
}

}  // namespace qwenserve
