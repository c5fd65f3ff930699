#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_READ_PACE_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_READ_PACE_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace qwenserve {

// How long one answer may wait for its client: so long that a moment's trouble ends nothing, but
// not so long that taking a few bytes now and then keeps its memory for hours. Of the time in which
// there is something to take, and the kernel takes no more:
//
//   in all        patience + bytes taken / rate
//   at a stretch  patience
//
// No clock of its own, no locks.
class ReadPace {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  // `bytes_per_second` 0: any byte within the patience is enough.
  ReadPace(std::chrono::milliseconds patience, int64_t bytes_per_second)
      : patience_(patience), rate_(bytes_per_second) {}

  // There is something to take from now on. The client is too slow when nothing of it is taken
  // until the result.
  Time Offer(Time now) {
    offered_ = now;
    if (rate_ == 0) return now + patience_;
    const auto earned =
        std::chrono::duration<double>(static_cast<double>(taken_) / static_cast<double>(rate_));
    // Comparing in floating point, since a byte a second earns more than a duration holds.
    const double left = (std::chrono::duration<double>(patience_ - waited_) + earned).count();
    if (left >= std::chrono::duration<double>(patience_).count()) return now + patience_;
    return now + std::max(Duration::zero(), std::chrono::duration_cast<Duration>(
                                                std::chrono::duration<double>(left)));
  }
  void Taken(size_t bytes, Time now) {
    waited_ += now - offered_;
    taken_ += bytes;
  }

 private:
  const Duration patience_;
  const int64_t rate_;
  Time offered_;
  Duration waited_{0};
  uint64_t taken_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_READ_PACE_H_
