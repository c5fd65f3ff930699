// Calls whose replicas are lost, drained, stalled or full at any moment give what an undisturbed
// one gives.

#include <algorithm>
#include <ostream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"
#include "tests/services/gateway/call/failover_world.h"

namespace qwenserve {
namespace {

struct Kind {
  const char* name;
  uint32_t n = 1;
  bool logprobs = false;
  bool prompt_logprobs = false;
  std::vector<std::string> stop;
};

// For failures.
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

const std::vector<Kind>& Kinds() {
  static const auto* const kinds = new std::vector<Kind>{
      {"plain"},
      {"n", 3},
      {"logprobs", 1, true},
      {"prompt_logprobs", 2, true, true},
      {"stop", 2, true, false, {"abab", "cca", "d d"}},
  };
  return *kinds;
}

GenerateRequest RequestOf(const Kind& kind, uint64_t seed) {
  GenerateRequest request;
  request.prompt.set_text("a prompt");
  request.options.set_n(kind.n);
  request.options.set_max_tokens(40);
  request.options.mutable_sampling()->set_seed(seed);
  if (kind.logprobs) request.options.set_top_logprobs(2);
  if (kind.prompt_logprobs) request.prompt_logprobs = 1;
  for (const std::string& stop : kind.stop) request.options.add_stop(stop);
  return request;
}

class FailoverScheduleTest : public testing::TestWithParam<Kind> {
 protected:
  WorldResult Run(uint64_t seed, uint64_t schedule, const World::Faults& faults) {
    return World(schedule, faults, &metrics_).Run(RequestOf(GetParam(), seed));
  }

  Metrics registry_{"gateway"};
  GatewayMetrics metrics_{registry_};
};

TEST_P(FailoverScheduleTest, ALossAfterEachEventIsNotSeen) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const WorldResult whole = Run(seed, seed, {});
    ASSERT_TRUE(whole.status.ok()) << whole.status;
    for (int at = 0; at <= whole.events; ++at) {
      const WorldResult result = Run(seed, seed * 1000 + at, {.lose_at = at});
      ASSERT_TRUE(result.status.ok()) << result.status;
      ASSERT_EQ(result.answers, whole.answers) << "seed " << seed << ", lost after " << at;
      ASSERT_EQ(result.prompt_logprobs, whole.prompt_logprobs);
    }
  }
}

TEST_P(FailoverScheduleTest, NoMixOfTroublesIsSeen) {
  uint64_t failovers = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    const WorldResult whole = Run(seed, seed, {});
    const WorldResult result =
        Run(seed, seed + 1000, {.refusal = 0.02, .drain = 0.05, .loss = 0.02, .most_losses = 1});
    failovers += result.failovers;
    if (ErrorReason(result.status) == kReasonQueueFull) continue;  // refused too often, at first
    ASSERT_TRUE(result.status.ok()) << "seed " << seed << ": " << result.status;
    ASSERT_EQ(result.answers, whole.answers) << "seed " << seed;
    ASSERT_EQ(result.prompt_logprobs, whole.prompt_logprobs);
  }
  EXPECT_GT(failovers, 100u);
}

TEST_P(FailoverScheduleTest, PoisonEndsAfterTwoLossesWithTrueTokens) {
  int poisoned = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    const WorldResult whole = Run(seed, seed, {});
    const WorldResult result =
        Run(seed, seed + 2000, {.drain = 0.02, .loss = 0.05, .stall = 0.02, .most_losses = 1000});
    for (size_t i = 0; i < result.answers.size(); ++i) {
      const std::vector<uint32_t>& ids = result.answers[i].ids;
      const std::vector<uint32_t>& all = whole.answers[i].ids;
      ASSERT_LE(ids.size(), all.size());
      ASSERT_TRUE(std::equal(ids.begin(), ids.end(), all.begin())) << "seed " << seed;
    }
    if (result.status.ok()) {
      ASSERT_EQ(result.answers, whole.answers) << "seed " << seed;
    } else {
      ASSERT_EQ(ErrorReason(result.status), kReasonSuspectedPoison) << result.status;
      ++poisoned;
    }
  }
  EXPECT_GT(poisoned, 20);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FailoverScheduleTest, testing::ValuesIn(Kinds()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace qwenserve
