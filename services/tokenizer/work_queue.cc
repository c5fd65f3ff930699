#include "services/tokenizer/work_queue.h"

#include <utility>

namespace qwenserve {

WorkQueue::WorkQueue(int num_threads, size_t max_waiting) : max_waiting_(max_waiting) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkQueue::~WorkQueue() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

bool WorkQueue::TryAdd(std::function<void()> job) {
  absl::MutexLock lock(&mutex_);
  if (jobs_.size() >= max_waiting_) return false;
  jobs_.push_back(std::move(job));
  return true;
}

void WorkQueue::Run() {
  const auto work_or_end = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return ending_ || !jobs_.empty();
  };
  while (true) {
    std::function<void()> job;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&work_or_end));
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

}  // namespace qwenserve
