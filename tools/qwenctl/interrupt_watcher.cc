#include "tools/qwenctl/interrupt_watcher.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <utility>

namespace qwenserve {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

InterruptWatcher::InterruptWatcher(std::function<void()> on_interrupt)
    : on_interrupt_(std::move(on_interrupt)) {
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this, set] {
    const timespec poll = {0, 100'000'000};  // how long the destructor may wait
    while (!stop_) {
      if (sigtimedwait(&set, nullptr, &poll) == SIGINT) on_interrupt_();
    }
  });
}

InterruptWatcher::~InterruptWatcher() {
  stop_ = true;
  thread_.join();
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace qwenserve
