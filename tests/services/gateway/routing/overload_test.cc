#include <algorithm>
#include <iostream>

#include "gtest/gtest.h"
#include "tests/services/gateway/routing/overload_model.h"

namespace qwenserve {
namespace {

// About what four replicas of the default options can do.
constexpr double kCapacity = 110;

OverloadResult Simulate(double load, uint32_t seed, bool hide_deadlines = false) {
  OverloadOptions options;
  options.seed = seed;
  options.requests_per_second = load * kCapacity;
  options.hide_deadlines = hide_deadlines;
  options.queue.max_waiting = 100000;
  OverloadResult result = RunOverload(options);
  std::cout << "load " << load << ", seed " << seed << ": " << result.requests << " requests, "
            << result.in_time << " in time, " << result.refused << " refused, " << result.late
            << " late, " << result.good_tokens_per_second << " good tokens/s, refusal p99 "
            << result.refusal_p99 << ", at most " << result.most_waiting << " waiting\n";
  return result;
}

TEST(OverloadTest, GoodputStaysAtItsPeakAndRefusalsComeAtOnce) {
  for (uint32_t seed : {1, 2, 3}) {
    double peak = 0;
    for (double load : {0.5, 0.8, 0.9, 1.0, 1.1}) {
      peak = std::max(peak, Simulate(load, seed).good_tokens_per_second);
    }
    for (double load : {2.0, 5.0, 10.0}) {
      const OverloadResult result = Simulate(load, seed);
      EXPECT_GE(result.good_tokens_per_second, 0.9 * peak) << load;
      EXPECT_LT(result.refusal_p99, absl::Milliseconds(50)) << load;
      EXPECT_EQ(result.left_behind, 0) << load;
    }
  }
}

TEST(OverloadTest, WithoutDeadlinesKnownItCollapses) {
  const double peak = Simulate(0.9, 1).good_tokens_per_second;
  EXPECT_LT(Simulate(5, 1, true).good_tokens_per_second, 0.5 * peak);
}

}  // namespace
}  // namespace qwenserve
