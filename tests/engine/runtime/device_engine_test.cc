// An engine on an emulated GPU, and on a real one where there is one: tokens and log-probabilities
// are those of each request alone, step by step, whatever runs beside it and however far ahead
// steps are planned.
#include <algorithm>
#include <bit>
#include <memory>
#include <string>
#include <vector>

#include "engine/runtime/engine.h"
#include "gtest/gtest.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"
#include "tests/kernels/test_device.h"

namespace qwenserve {
namespace {

class DeviceEngineTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto device = MakeTestDevice(TestDeviceNames().front(), 1);
    if (absl::IsNotFound(device.status())) GTEST_SKIP() << "no device: " << device.status();
    ASSERT_TRUE(device.ok()) << device.status();
    TinyModel model;
    model.hidden_size = 128;
    model.num_query_heads = 2;
    model.num_kv_heads = 1;
    options_ = TinyOptions(WriteTinyCheckpoint("device_engine", model));
    options_.wrap_backend = [](std::unique_ptr<Backend>) {
      return *MakeTestDevice(TestDeviceNames().front(), 1);
    };
    options_.run_ahead = false;
    options_.max_batch_tokens = 64;
    options_.max_running = 8;
    MakeRequests();
  }

  void MakeRequests() {
    requests_ = MixedRequests(12, 320);
    for (size_t i = 0; i < requests_.size(); ++i) {
      SequenceRequest& request = requests_[i];
      request.sampling.max_tokens = 12 + static_cast<int64_t>(i % 3);
      if (i % 2 == 0) request.sampling.num_logprobs = 1;
      if (i == 3) request.sampling.num_prompt_logprobs = 1;
      if (i == 4) request.sampling.min_tokens = 4;
    }
  }

  // All that a client sees, the log-probabilities by their bits.
  static std::vector<int64_t> Seen(const Answer& answer) {
    std::vector<int64_t> seen(answer.ids.begin(), answer.ids.end());
    seen.push_back(static_cast<int64_t>(answer.finish));
    for (const auto* tokens : {&answer.tokens, &answer.prompt_logprobs}) {
      for (const SampledToken& token : *tokens) {
        seen.push_back(std::bit_cast<int32_t>(token.logprob));
      }
    }
    return seen;
  }

  std::vector<std::vector<int64_t>> OneByOne() {
    EngineOptions options = options_;
    options.prefix_cache = false;
    EngineHarness harness(options);
    EXPECT_TRUE(harness.status().ok()) << harness.status();
    std::vector<std::vector<int64_t>> all;
    for (const SequenceRequest& request : requests_) all.push_back(Seen(harness.Generate(request)));
    return all;
  }

  std::vector<std::vector<int64_t>> Together(const EngineOptions& options) {
    EngineHarness harness(options);
    EXPECT_TRUE(harness.status().ok()) << harness.status();
    std::vector<std::vector<int64_t>> all;
    for (const Answer& answer : harness.AnswerAll(requests_)) all.push_back(Seen(answer));
    EXPECT_EQ(harness.engine().Stats().free_blocks, harness.engine().Stats().total_blocks);
    return all;
  }

  EngineOptions options_;
  std::vector<SequenceRequest> requests_;
};

TEST_F(DeviceEngineTest, TokensAreThoseOfEachRequestAlone) {
  const auto expected = OneByOne();
  EXPECT_NE(expected[0], expected[1]);
  EXPECT_EQ(Together(options_), expected);
  options_.run_ahead = true;
  EXPECT_EQ(Together(options_), expected);
  options_.max_batch_tokens = 16;  // prompts in pieces, fewer places
  options_.max_running = 3;
  EXPECT_EQ(Together(options_), expected);
}

TEST_F(DeviceEngineTest, TellsHowFullTheDeviceIs) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  const RankProgress rank = harness.engine().Stats().ranks.at(0);
  EXPECT_GT(rank.device_used, 0);
  EXPECT_LE(rank.device_used, rank.device_total);
}

TEST_F(DeviceEngineTest, EndsOneStepLateAtMost) {
  requests_.resize(3);
  const auto expected = OneByOne();
  options_.run_ahead = true;
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  // Each answer ends by its fourth token.
  for (size_t i = 0; i < requests_.size(); ++i) {
    SequenceRequest request = requests_[i];
    request.sampling.stop_token_ids = {static_cast<int32_t>(expected[i][3])};
    const Answer answer = harness.Generate(request);
    EXPECT_EQ(answer.finish, FinishReason::kStop);
    const size_t first =
        std::find(expected[i].begin(), expected[i].end(), expected[i][3]) - expected[i].begin();
    EXPECT_EQ(answer.ids, std::vector<int32_t>(expected[i].begin(), expected[i].begin() + first));
  }
  EXPECT_LE(harness.engine().Stats().counters.surplus_tokens, requests_.size());
}

}  // namespace
}  // namespace qwenserve
