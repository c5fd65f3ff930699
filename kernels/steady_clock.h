#ifndef QWENSERVE_KERNELS_STEADY_CLOCK_H_
#define QWENSERVE_KERNELS_STEADY_CLOCK_H_

#include "absl/time/time.h"

namespace qwenserve {

// The time that deadlines are measured in, so that a test can let hours pass. Thread-safe.
class SteadyClock {
 public:
  virtual ~SteadyClock() = default;
  // Since some moment in the past; never goes back.
  virtual absl::Duration Now() = 0;
  virtual void Sleep(absl::Duration duration) = 0;

  // CLOCK_MONOTONIC.
  static SteadyClock& Real();
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_STEADY_CLOCK_H_
