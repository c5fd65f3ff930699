#include "engine/base/monotonic_time.h"

#include <algorithm>
#include <chrono>

namespace qwenserve {

absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

void StopSignal::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
}

bool StopSignal::stopped() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stopped_;
}

bool StopSignal::StoppedWithin(absl::Duration duration) const {
  std::unique_lock<std::mutex> lock(mutex_);
  // wait_for() measures on the steady clock, which has no room for an endless time.
  const absl::Duration bounded = std::clamp(duration, absl::ZeroDuration(), absl::Hours(24 * 365));
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(bounded), [this] { return stopped_; });
}

}  // namespace qwenserve
