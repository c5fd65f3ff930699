#ifndef QWENSERVE_TESTS_KERNELS_VIRTUAL_CLOCK_H_
#define QWENSERVE_TESTS_KERNELS_VIRTUAL_CLOCK_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

#include "kernels/steady_clock.h"

namespace qwenserve {

// Time that passes only when somebody sleeps, or by Advance. A sleep takes some real microseconds,
// so that other threads get on meanwhile.
class VirtualClock final : public SteadyClock {
 public:
  absl::Duration Now() override { return absl::Nanoseconds(nanos_.load()); }
  void Sleep(absl::Duration duration) override {
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    Advance(duration);
  }
  void Advance(absl::Duration duration) { nanos_ += absl::ToInt64Nanoseconds(duration); }

 private:
  std::atomic<int64_t> nanos_{1'000'000'000};
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_VIRTUAL_CLOCK_H_
