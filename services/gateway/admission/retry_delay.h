#ifndef QWENSERVE_SERVICES_GATEWAY_ADMISSION_RETRY_DELAY_H_
#define QWENSERVE_SERVICES_GATEWAY_ADMISSION_RETRY_DELAY_H_

#include <algorithm>

#include "absl/random/random.h"
#include "absl/time/time.h"

namespace qwenserve {

// What a refusal tells its client to wait: never less than `delay`, up to a quarter more so that
// those refused together do not come back together, at least 0.1 s and at most a minute and a
// quarter.
inline absl::Duration RetryDelay(absl::Duration delay) {
  thread_local absl::InsecureBitGen random;
  delay = std::clamp(delay, absl::Milliseconds(100), absl::Minutes(1));
  return delay * absl::Uniform(random, 1.0, 1.25);
}

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ADMISSION_RETRY_DELAY_H_
