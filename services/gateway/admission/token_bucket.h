#ifndef QWENSERVE_SERVICES_GATEWAY_ADMISSION_TOKEN_BUCKET_H_
#define QWENSERVE_SERVICES_GATEWAY_ADMISSION_TOKEN_BUCKET_H_

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace qwenserve {

// A limit of so many a minute: a bucket that holds a minute's worth and refills evenly. It starts
// full. The limit comes with each call, since it may be changed under way. No locks, no clock of
// its own.
class TokenBucket {
 public:
  // How long until `amount` can be taken, 0: now. More than a minute's worth can be taken from a
  // full bucket.
  absl::Duration Until(int64_t amount, int64_t per_minute, absl::Time now) {
    Refill(per_minute, now);
    const double limit = static_cast<double>(per_minute);
    const double missing = std::min(static_cast<double>(amount), limit) - level_;
    // What a minute's worth in many steps adds up to may be a little less than the whole.
    if (missing <= 1e-6 * limit) return absl::ZeroDuration();
    return absl::Seconds(missing * 60 / limit);
  }
  // Below 0 if need be: the debt is paid before anything is taken again.
  void Take(int64_t amount, int64_t per_minute, absl::Time now) {
    Refill(per_minute, now);
    level_ -= static_cast<double>(amount);
  }
  // Of what was taken for nothing.
  void GiveBack(int64_t amount, int64_t per_minute, absl::Time now) {
    Refill(per_minute, now);
    level_ = std::min(static_cast<double>(per_minute), level_ + static_cast<double>(amount));
  }
  bool IsFull(int64_t per_minute, absl::Time now) {
    Refill(per_minute, now);
    return level_ >= static_cast<double>(per_minute);
  }

 private:
  void Refill(int64_t per_minute, absl::Time now) {
    const double limit = static_cast<double>(per_minute);
    if (filled_ == absl::InfinitePast()) {
      level_ = limit;
    } else {
      const double seconds = std::max(0.0, absl::ToDoubleSeconds(now - filled_));
      level_ = std::min(limit, level_ + seconds * limit / 60);
    }
    filled_ = std::max(filled_, now);
  }

  absl::Time filled_ = absl::InfinitePast();
  double level_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ADMISSION_TOKEN_BUCKET_H_
