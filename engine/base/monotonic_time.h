#ifndef QWENSERVE_ENGINE_BASE_MONOTONIC_TIME_H_
#define QWENSERVE_ENGINE_BASE_MONOTONIC_TIME_H_

#include <condition_variable>
#include <mutex>

#include "absl/time/time.h"

namespace qwenserve {

// CLOCK_MONOTONIC as a point in time. All deadlines, ages and pauses are measured on it, since the
// wall clock may be put forward and back while the process runs. It is no date: only differences
// and comparisons mean something, and only within this process.
absl::Time MonotonicNow();

// What lets a thread that does something again and again sleep in between, and end. Abseil's own
// timed waits (20220623) end at a time of day: put the clock back by an hour, and they take an hour
// longer. Thread-safe.
class StopSignal {
 public:
  void Stop();
  bool stopped() const;
  // Returns whether to stop; sleeps for `duration` if not, and no longer than until then.
  bool StoppedWithin(absl::Duration duration) const;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  bool stopped_ = false;  // guarded by mutex_
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_BASE_MONOTONIC_TIME_H_
