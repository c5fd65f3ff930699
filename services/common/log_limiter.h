#ifndef QWENSERVE_SERVICES_COMMON_LOG_LIMITER_H_
#define QWENSERVE_SERVICES_COMMON_LOG_LIMITER_H_

#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace qwenserve {

// For events that strangers can cause as often as they like: at most one line an interval, which
// tells how many there were. Thread-safe.
class LogLimiter {
 public:
  explicit LogLimiter(absl::Duration interval) : interval_(interval) {}

  // Counts an event. A number: log now, for so many events since the last line.
  std::optional<int64_t> Count(absl::Time now) {
    absl::MutexLock lock(&mutex_);
    ++events_;
    if (now < next_) return std::nullopt;
    next_ = now + interval_;
    const int64_t events = events_;
    events_ = 0;
    return events;
  }

 private:
  const absl::Duration interval_;
  absl::Mutex mutex_;
  absl::Time next_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int64_t events_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_LOG_LIMITER_H_
