#include "kernels/steady_clock.h"

#include <chrono>
#include <thread>

namespace qwenserve {
namespace {

class RealClock final : public SteadyClock {
 public:
  absl::Duration Now() override {
    return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }
  void Sleep(absl::Duration duration) override {
    std::this_thread::sleep_for(absl::ToChronoNanoseconds(duration));
  }
};

}  // namespace

SteadyClock& SteadyClock::Real() {
  static RealClock clock;
  return clock;
}

}  // namespace qwenserve
