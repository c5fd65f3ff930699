#ifndef QWENSERVE_SERVICES_GENERATOR_WAKE_THREAD_H_
#define QWENSERVE_SERVICES_GENERATOR_WAKE_THREAD_H_

#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace qwenserve {

// Runs what is posted, in order, on a thread of its own. The core posts instead of writing to a
// session while it holds its lock: inside gRPC the thread could be made to run another call's
// reaction, which wants that lock. What is posted must not wait long.
class WakeThread {
 public:
  WakeThread();
  // Runs what was posted, then ends.
  ~WakeThread();

  void Post(std::function<void()> work);

 private:
  void Loop();

  absl::Mutex mutex_;
  std::vector<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_WAKE_THREAD_H_
