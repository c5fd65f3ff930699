#ifndef QWENSERVE_ENGINE_RUNTIME_EVENT_QUEUE_H_
#define QWENSERVE_ENGINE_RUNTIME_EVENT_QUEUE_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "engine/schedule/request.h"

namespace qwenserve {

// Hands the events of steps to a callback on a thread of its own, so that they are reported while
// the next step runs. Order is kept. Bounded: a producer that is kMaxPending steps ahead waits.
class EventQueue {
 public:
  static constexpr size_t kMaxPending = 16;

  explicit EventQueue(std::function<void(const StepEvents&)> callback);
  ~EventQueue() { Close(); }

  void Push(StepEvents events);

  // Delivers what is there and ends the thread; nothing may be pushed afterwards.
  void Close();

 private:
  void Run();

  const std::function<void(const StepEvents&)> callback_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<StepEvents> pending_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_EVENT_QUEUE_H_
