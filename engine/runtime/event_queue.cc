#include "engine/runtime/event_queue.h"

#include <utility>

namespace qwenserve {

EventQueue::EventQueue(std::function<void(const StepEvents&)> callback)
    : callback_(std::move(callback)), thread_([this] { Run(); }) {}

void EventQueue::Close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void EventQueue::Push(StepEvents events) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return pending_.size() < kMaxPending; });
    pending_.push_back(std::move(events));
  }
  changed_.notify_all();
}

void EventQueue::Run() {
  while (true) {
    StepEvents events;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return !pending_.empty() || closing_; });
      if (pending_.empty()) return;
      events = std::move(pending_.front());
      pending_.pop_front();
    }
    changed_.notify_all();
    callback_(events);
  }
}

}  // namespace qwenserve
