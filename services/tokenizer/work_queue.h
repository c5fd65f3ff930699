#ifndef QWENSERVE_SERVICES_TOKENIZER_WORK_QUEUE_H_
#define QWENSERVE_SERVICES_TOKENIZER_WORK_QUEUE_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace qwenserve {

// A few threads that work off jobs in order. Bounded: what does not fit is refused at once rather
// than queued without end.
class WorkQueue {
 public:
  WorkQueue(int num_threads, size_t max_waiting);
  // Runs the jobs that wait, then ends.
  ~WorkQueue();

  // False when `max_waiting` jobs wait already.
  bool TryAdd(std::function<void()> job);

 private:
  void Run();

  const size_t max_waiting_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_TOKENIZER_WORK_QUEUE_H_
