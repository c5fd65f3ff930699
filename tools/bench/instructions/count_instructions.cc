// Runs the token path for callgrind, which counts inside Measured() alone: see count.py.
#include <cstdint>
#include <iostream>

#include "absl/synchronization/mutex.h"
#include "tools/bench/instructions/token_path.h"

namespace qwenserve {
namespace {

constexpr uint32_t kStreams = 64;
constexpr uint32_t kWarmUp = 300;
constexpr uint32_t kSteps = 100;

}  // namespace

// Its name is given to callgrind; never inlined, so that it is there.
[[gnu::noinline]] size_t Measured(TokenPath& path) { return path.Step(); }

}  // namespace qwenserve

int main() {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as servers do
  qwenserve::TokenPath path(qwenserve::kStreams);
  size_t bytes = 0;
  for (uint32_t i = 0; i < qwenserve::kWarmUp + qwenserve::kSteps; ++i) {
    path.Prepare();
    bytes = i < qwenserve::kWarmUp ? path.Step() : qwenserve::Measured(path);
  }
  std::cout << "tokens " << qwenserve::kStreams * qwenserve::kSteps << std::endl;
  return bytes > 0 ? 0 : 1;
}
