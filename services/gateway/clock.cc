#include <chrono>

#include "services/gateway/call_services.h"

namespace qwenserve {

absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace qwenserve
