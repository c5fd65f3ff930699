#include "engine/parallel/shared_counter.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "engine/base/monotonic_time.h"

namespace qwenserve {
namespace {

constexpr int kSpins = 2000;
constexpr int kYields = 20;
// Bounds how long a waiter that went to sleep just as the group was aborted stays asleep.
constexpr absl::Duration kLongestSleep = absl::Milliseconds(50);

// Tells the core that this is a spin loop.
inline void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

bool Reached(const SharedCounter& counter, uint32_t target) {
  return static_cast<int32_t>(counter.value.load(std::memory_order_acquire) - target) >= 0;
}

// Not the PRIVATE kind of futex: the waiter may be another process.
void FutexWait(std::atomic<uint32_t>& word, uint32_t expected, absl::Duration longest) {
  const timespec limit = absl::ToTimespec(longest);
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &limit, nullptr, 0);
}

}  // namespace

void WakeAll(SharedCounter& counter) {
  syscall(SYS_futex, &counter.value, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void Advance(SharedCounter& counter, uint32_t value) {
  // Sequentially consistent against the sleeper's own pair (count itself, look again): one of the
  // two sees the other.
  counter.value.store(value, std::memory_order_seq_cst);
  if (counter.sleepers.load(std::memory_order_seq_cst) > 0) WakeAll(counter);
}

WaitResult WaitFor(SharedCounter& counter, uint32_t target, absl::Duration timeout,
                   const std::atomic<uint32_t>& aborted) {
  if (aborted.load(std::memory_order_acquire) != 0) return WaitResult::kAborted;
  for (int i = 0; i < kSpins; ++i) {
    if (Reached(counter, target)) return WaitResult::kReached;
    Relax();
  }
  for (int i = 0; i < kYields; ++i) {
    if (Reached(counter, target)) return WaitResult::kReached;
    sched_yield();
  }
  const absl::Time deadline = MonotonicNow() + timeout;
  while (true) {
    counter.sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t seen = counter.value.load(std::memory_order_seq_cst);
    const bool reached = static_cast<int32_t>(seen - target) >= 0;
    const absl::Duration left = deadline - MonotonicNow();
    const bool stopped = aborted.load(std::memory_order_acquire) != 0;
    if (!reached && !stopped && left > absl::ZeroDuration()) {
      FutexWait(counter.value, seen, std::min(left, kLongestSleep));
    }
    counter.sleepers.fetch_sub(1, std::memory_order_seq_cst);
    if (reached) return WaitResult::kReached;
    if (stopped) return WaitResult::kAborted;
    if (left <= absl::ZeroDuration()) return WaitResult::kTimedOut;
  }
}

}  // namespace qwenserve
