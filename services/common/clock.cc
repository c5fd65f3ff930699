#include "services/common/clock.h"

#include <chrono>

namespace qwenserve {

absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace qwenserve
