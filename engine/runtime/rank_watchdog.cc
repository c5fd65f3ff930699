#include "engine/runtime/rank_watchdog.h"

#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kAbortPoll = absl::Milliseconds(10);

[[noreturn]] void EndProcess(const absl::Status& reason) {
  spdlog::critical("{}; its collectives cannot be ended, so the process ends",
                   std::string(reason.message()));
  spdlog::default_logger()->flush();
  std::_Exit(1);
}

}  // namespace

absl::Status RankWatch::Look(absl::Duration now) {
  if (absl::Status status = group_->Health(); !status.ok()) return status;
  if (absl::Status status = communicator_.Health(); !status.ok()) return status;
  const RankProgress progress = group_->Progress(rank_);
  if (progress.step_age == absl::ZeroDuration()) {
    step_.reset();
    return absl::OkStatus();
  }
  if (!step_.has_value() || step_->finished != progress.step) step_ = Step{progress.step, now};
  if (now - step_->seen < step_timeout_) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("rank ", rank_, " is stalled: the step after step ",
                                             progress.step, " has taken longer than ",
                                             absl::FormatDuration(step_timeout_)));
}

RankWatchdog::RankWatchdog(std::shared_ptr<RankGroup> group, int rank, Communicator& communicator,
                           WatchdogOptions options)
    : group_(group),
      communicator_(communicator),
      options_(std::move(options)),
      watch_(std::move(group), rank, communicator, options_.step_timeout),
      thread_([this] { Run(); }) {}

RankWatchdog::~RankWatchdog() {
  stop_ = true;
  thread_.join();
}

void RankWatchdog::Run() {
  while (!stop_) {
    if (absl::Status reason = watch_.Look(options_.clock->Now()); !reason.ok()) {
      return GiveUp(reason);
    }
    options_.clock->Sleep(options_.interval);
  }
}

void RankWatchdog::GiveUp(const absl::Status& reason) {
  // First, so that nobody takes the results of collectives that were cut off for good ones.
  group_->Abort(reason.message());
  if (options_.on_failure != nullptr) options_.on_failure();
  auto done = std::make_shared<std::atomic<bool>>(false);
  std::thread aborting([communicator = &communicator_, done] {
    communicator->Abort();
    *done = true;
  });
  const absl::Duration deadline = options_.clock->Now() + options_.abort_timeout;
  while (!*done && options_.clock->Now() < deadline) options_.clock->Sleep(kAbortPoll);
  if (*done) return aborting.join();
  aborting.detach();
  if (options_.end_process != nullptr) return options_.end_process(reason);
  EndProcess(reason);
}

std::unique_ptr<RankWatchdog> WatchRank(std::shared_ptr<RankGroup> group, int rank,
                                        Communicator& communicator, absl::Duration step_timeout,
                                        std::function<void()> on_failure) {
  // Collectives that block have deadlines of their own.
  if (communicator.size() == 1 || !communicator.replayable()) return nullptr;
  WatchdogOptions options;
  options.step_timeout = step_timeout;
  options.on_failure = std::move(on_failure);
  return std::make_unique<RankWatchdog>(std::move(group), rank, communicator, std::move(options));
}

}  // namespace qwenserve
