#include "tools/qwenctl/bench/bench_runner.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(200);

}  // namespace

BenchRunner::BenchRunner(const BenchOptions& options, BenchPlan plan, std::string model,
                         BenchTransport* transport, BenchRecorder* recorder)
    : options_(options),
      model_(std::move(model)),
      transport_(transport),
      recorder_(recorder),
      plan_(std::move(plan)) {}

bool BenchRunner::MayStart(uint64_t number) const {
  if (stopped_.load(std::memory_order_relaxed)) return false;
  if (options_.num_requests > 0 && number >= options_.num_requests) return false;
  return options_.duration_seconds <= 0 ||
         BenchNow() - begin_ < absl::Seconds(options_.duration_seconds);
}

void BenchRunner::Send(const PlannedRequest& request, absl::Time intended,
                       std::function<void()> then) {
  {
    absl::MutexLock lock(&mutex_);
    ++in_flight_;
  }
  transport_->Start(request, model_, BenchRecorder::Call(recorder_, intended, BenchNow()),
                    [this, then = std::move(then)] {
                      then();
                      absl::MutexLock lock(&mutex_);
                      --in_flight_;
                    });
}

void BenchRunner::StartNext() {
  PlannedRequest request;
  {
    absl::MutexLock lock(&mutex_);
    if (!MayStart(drawn_)) return;
    ++drawn_;
    request = plan_.Next();
  }
  Send(request, BenchNow(), [this] { StartNext(); });
}

void BenchRunner::RunOpen(const std::function<void()>& on_tick) {
  for (uint64_t number = 0; MayStart(number); ++number) {
    PlannedRequest request;
    {
      absl::MutexLock lock(&mutex_);
      request = plan_.Next();
    }
    const absl::Time intended = begin_ + request.start;
    for (absl::Duration left; (left = intended - BenchNow()) > absl::ZeroDuration();) {
      if (!MayStart(number)) return;
      absl::SleepFor(std::min(left, kTick));
      on_tick();
    }
    Send(request, intended, [] {});
  }
}

void BenchRunner::Run(const std::function<void()>& on_tick) {
  begin_ = BenchNow();
  if (options_.open_loop()) {
    RunOpen(on_tick);
  } else {
    for (uint32_t i = 0; i < options_.concurrency; ++i) StartNext();
  }
  absl::MutexLock lock(&mutex_);
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return in_flight_ == 0; };
  while (!mutex_.AwaitWithTimeout(absl::Condition(&idle), kTick)) {
    mutex_.Unlock();
    on_tick();
    mutex_.Lock();
  }
  elapsed_ = BenchNow() - begin_;
}

void BenchRunner::Stop() {
  stopped_ = true;
  transport_->CancelAll();
}

double BenchRunner::Progress() const {
  double progress = 0;
  if (options_.num_requests > 0) {
    progress = static_cast<double>(recorder_->ended()) / static_cast<double>(options_.num_requests);
  }
  if (options_.duration_seconds > 0) {
    const double time = absl::ToDoubleSeconds(BenchNow() - begin_) / options_.duration_seconds;
    progress = std::max(progress, time);
  }
  return std::min(progress, 1.0);
}

}  // namespace qwenserve
