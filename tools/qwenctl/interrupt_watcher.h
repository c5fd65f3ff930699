#ifndef QWENSERVE_TOOLS_QWENCTL_INTERRUPT_WATCHER_H_
#define QWENSERVE_TOOLS_QWENCTL_INTERRUPT_WATCHER_H_

#include <atomic>
#include <functional>
#include <thread>

namespace qwenserve {

// Turns SIGINT into a call on a thread of its own, where anything may be done. Create it before
// other threads start: they inherit the blocked signal.
class InterruptWatcher {
 public:
  explicit InterruptWatcher(std::function<void()> on_interrupt);
  ~InterruptWatcher();

 private:
  std::function<void()> on_interrupt_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_INTERRUPT_WATCHER_H_
