#include "tools/bench/routing_simulation.h"

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

RoutingScenario Short(RoutingPolicy policy, double load) {
  RoutingScenario scenario;
  scenario.policy = policy;
  scenario.conversations_per_second = load;
  scenario.length = absl::Seconds(24);
  scenario.warm_up = absl::Seconds(6);
  return scenario;
}

class RoutingSimulationTest : public testing::TestWithParam<double> {};

// 64 replicas, one of them slow and one that dies; 4 gateways.
TEST_P(RoutingSimulationTest, BetterThanRoundRobinRandomAndLeastLoad) {
  const RoutingResult ours = SimulateRouting(Short(RoutingPolicy::kOurs, GetParam()));
  EXPECT_EQ(ours.failed, 0);
  EXPECT_GT(ours.requests, 500);
  for (RoutingPolicy policy :
       {RoutingPolicy::kRoundRobin, RoutingPolicy::kRandom, RoutingPolicy::kLeastLoad}) {
    SCOPED_TRACE(RoutingPolicyName(policy));
    const RoutingResult other = SimulateRouting(Short(policy, GetParam()));
    EXPECT_EQ(other.failed, 0);
    EXPECT_GT(ours.hit_rate, 1.5 * other.hit_rate);
    EXPECT_LT(ours.ttft_p50, other.ttft_p50 / 2);
    EXPECT_LT(ours.ttft_p99, other.ttft_p99);
  }
}

INSTANTIATE_TEST_SUITE_P(Loads, RoutingSimulationTest, testing::Values(25, 60));

TEST(RoutingSimulationDigestTest, TheSeedDecidesEverything) {
  const RoutingScenario scenario = Short(RoutingPolicy::kOurs, 60);
  RoutingScenario other = scenario;
  ++other.seed;
  const RoutingResult first = SimulateRouting(scenario);
  EXPECT_EQ(SimulateRouting(scenario).digest, first.digest);
  EXPECT_NE(SimulateRouting(other).digest, first.digest);
  EXPECT_GT(first.resubmitted, 0);  // somebody died at work
}

}  // namespace
}  // namespace qwenserve
