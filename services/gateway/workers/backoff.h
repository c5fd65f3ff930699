#ifndef QWENSERVE_SERVICES_GATEWAY_WORKERS_BACKOFF_H_
#define QWENSERVE_SERVICES_GATEWAY_WORKERS_BACKOFF_H_

#include <algorithm>

#include "absl/random/random.h"
#include "absl/time/time.h"

namespace qwenserve {

// When to try a worker again: 0.1 s after the first failure, twice as long after each further one
// up to 2 s, and up to a fifth less, so that many gateways don't knock at the same moment.
class Backoff {
 public:
  bool Due(absl::Time now) const { return now >= next_; }
  void OnFailure(absl::Time now) {
    next_ = now + delay_ * absl::Uniform(random_, 0.8, 1.0);
    delay_ = std::min(delay_ * 2, absl::Seconds(2));
  }
  void OnSuccess() { delay_ = absl::Milliseconds(100); }

 private:
  absl::Duration delay_ = absl::Milliseconds(100);
  absl::Time next_ = absl::InfinitePast();
  absl::InsecureBitGen random_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_WORKERS_BACKOFF_H_
