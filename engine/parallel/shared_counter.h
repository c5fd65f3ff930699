#ifndef QWENSERVE_ENGINE_PARALLEL_SHARED_COUNTER_H_
#define QWENSERVE_ENGINE_PARALLEL_SHARED_COUNTER_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

namespace qwenserve {

// A counter that one rank advances and others wait for, in memory shared by threads or by
// processes. Wraps around; targets are compared by signed difference. Alone on its cache line, so
// that waiting for one rank does not slow another.
struct alignas(64) SharedCounter {
  std::atomic<uint32_t> value{0};
  std::atomic<uint32_t> sleepers{0};
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

enum class WaitResult { kReached, kTimedOut, kAborted };

// Stores `value`, which orders all earlier writes before it, and wakes who waits.
void Advance(SharedCounter& counter, uint32_t value);

// Wakes all waiters without a change, so that they look at `aborted`.
void WakeAll(SharedCounter& counter);

// Waits until the counter has reached `target`; writes before that Advance are then visible. Spins
// for some microseconds, which is what a peer on another core needs, then yields, then sleeps: on
// a machine with fewer cores than ranks pure spinning would stop everything.
// kAborted within 50 ms after `aborted` became non-zero.
WaitResult WaitFor(SharedCounter& counter, uint32_t target, absl::Duration timeout,
                   const std::atomic<uint32_t>& aborted);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_PARALLEL_SHARED_COUNTER_H_
