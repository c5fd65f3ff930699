#include "services/gateway/grpc/call_reactors.h"

#include <chrono>

namespace qwenserve {

absl::Time DeadlineOf(const grpc::ServerContextBase& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return MonotonicNow() + absl::FromChrono(deadline - std::chrono::system_clock::now());
}

}  // namespace qwenserve
