#ifndef QWENSERVE_SERVICES_COMMON_CLOCK_H_
#define QWENSERVE_SERVICES_COMMON_CLOCK_H_

#include <functional>

#include "absl/time/time.h"

namespace qwenserve {

// Monotonic time of the process, the same from any thread; tests put their own here. Good for
// differences only: it is no time of day.
using Clock = std::function<absl::Time()>;
absl::Time MonotonicNow();

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_CLOCK_H_
