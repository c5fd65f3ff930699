#ifndef QWENSERVE_SERVICES_COMMON_CLOCK_H_
#define QWENSERVE_SERVICES_COMMON_CLOCK_H_

#include <functional>

#include "absl/time/time.h"
#include "engine/base/monotonic_time.h"

namespace qwenserve {

// MonotonicNow, or what a test puts in its place.
using Clock = std::function<absl::Time()>;

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_CLOCK_H_
