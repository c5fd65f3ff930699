#include "tools/qwenctl/bench/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace qwenserve {

int LatencyHistogram::BucketOf(uint64_t value) {
  if (value < kSub) return static_cast<int>(value);
  const int shift = std::bit_width(value) - 1 - kSubBits;
  return (shift + 1) * kSub + static_cast<int>((value >> shift) - kSub);
}

uint64_t LatencyHistogram::UpperEnd(int bucket) {
  if (bucket < kSub) return static_cast<uint64_t>(bucket);
  const int shift = bucket / kSub - 1;
  return ((static_cast<uint64_t>(bucket % kSub + kSub) + 1) << shift) - 1;
}

void LatencyHistogram::Record(absl::Duration duration) {
  const uint64_t value =
      static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Nanoseconds(duration)));
  buckets_[BucketOf(value)].fetch_add(1, std::memory_order_relaxed);
  count_.fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
  uint64_t seen = max_.load(std::memory_order_relaxed);
  while (seen < value && !max_.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

absl::Duration LatencyHistogram::mean() const {
  const uint64_t n = count();
  return n == 0 ? absl::ZeroDuration()
                : absl::Nanoseconds(sum_.load(std::memory_order_relaxed) / n);
}

absl::Duration LatencyHistogram::Percentile(double fraction) const {
  const auto rank = static_cast<uint64_t>(std::ceil(fraction * static_cast<double>(count())));
  uint64_t below = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    below += buckets_[bucket].load(std::memory_order_relaxed);
    if (below == 0 || below < rank) continue;
    return std::min(absl::Nanoseconds(UpperEnd(static_cast<int>(bucket))), max());
  }
  return absl::ZeroDuration();
}

}  // namespace qwenserve
