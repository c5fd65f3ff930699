#include "services/generator/wake_thread.h"

#include <utility>

namespace qwenserve {

WakeThread::WakeThread() : thread_([this] { Loop(); }) {}

WakeThread::~WakeThread() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void WakeThread::Post(std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  queue_.push_back(std::move(work));
}

void WakeThread::Loop() {
  const auto ready = [this]()
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || !queue_.empty(); };
  for (;;) {
    std::vector<std::function<void()>> work;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&ready));
      if (queue_.empty()) return;
      work.swap(queue_);
    }
    for (const auto& item : work) item();
  }
}

}  // namespace qwenserve
