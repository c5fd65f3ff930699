// Sequences that grow beyond the length that their model was trained for: NTK's alpha (from the
// prompt, fixed for the sequence), logn's factors and YaRN's frequencies are the same in chunks, in
// batches, after a preemption, from the prefix cache and for an answer that goes on elsewhere.
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/runtime/engine_harness.h"

namespace qwenserve {
namespace {

struct Variant {
  const char* model;  // of tests/parity/data; both were trained on 16 positions
  KvFormat format;
};

struct LongAnswer {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  bool operator==(const LongAnswer& other) const {
    return ids == other.ids && logprobs == other.logprobs;
  }
};

class LongContextTest : public testing::TestWithParam<Variant> {
 protected:
  static constexpr int64_t kLength = 60;

  void SetUp() override {
    options_ = TinyOptions(std::string("tests/parity/data/") + GetParam().model);
    options_.kv_format = GetParam().format;
    options_.max_model_len = 64;
    // On both sides of the thresholds at 16 and 32, and onto and across them while decoding. All
    // begin alike, so that a cache which forgot what alpha they were rotated with would be seen.
    std::mt19937 random(5);
    std::vector<int32_t> ids(kLength);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % 61);
    for (const int64_t prompt : {10, 16, 17, 30, 32, 33, 50}) {
      requests_.push_back(GreedyRequest({ids.begin(), ids.begin() + prompt}, kLength - prompt));
      requests_.back().sampling.num_logprobs = 0;
    }
    EngineOptions alone = options_;
    alone.prefix_cache = false;
    EngineHarness harness(alone);
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    fingerprint_ = harness.engine().info().fingerprint;
    kv_bytes_per_token_ = harness.engine().info().kv_bytes_per_token;
    for (const SequenceRequest& request : requests_) {
      const Answer answer = harness.Generate(request);
      ASSERT_EQ(answer.ids.size() + request.prompt_ids.size(), static_cast<size_t>(kLength));
      expected_.push_back({answer.ids, answer.logprobs});
    }
  }

  void ExpectTheSame(EngineHarness& harness) {
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    EXPECT_EQ(harness.engine().info().fingerprint, fingerprint_);
    std::vector<uint64_t> sequences;
    for (const SequenceRequest& request : requests_) sequences.push_back(harness.Submit(request));
    for (size_t i = 0; i < sequences.size(); ++i) {
      const Answer answer = harness.Wait(sequences[i]);
      EXPECT_EQ((LongAnswer{answer.ids, answer.logprobs}), expected_[i])
          << "prompt of " << requests_[i].prompt_ids.size();
    }
  }

  EngineOptions options_;
  std::vector<SequenceRequest> requests_;
  std::vector<LongAnswer> expected_;
  std::string fingerprint_;
  int64_t kv_bytes_per_token_ = 0;
};

TEST_P(LongContextTest, InChunksAndBatches) {
  for (const int64_t rows : {3, 7, 19}) {
    options_.max_batch_tokens = rows;
    EngineHarness harness(options_);
    ExpectTheSame(harness);
  }
}

TEST_P(LongContextTest, FromAWarmPrefixCache) {
  EngineHarness harness(options_);
  ExpectTheSame(harness);
  ExpectTheSame(harness);
  EXPECT_GT(harness.engine().Stats().counters.hit_tokens, 0u);
}

TEST_P(LongContextTest, AfterPreemption) {
  options_.prefix_cache = false;
  options_.kv_cache_bytes = kv_bytes_per_token_ * 16 * 7;  // of the 28 blocks that they all need
  EngineHarness harness(options_);
  ExpectTheSame(harness);
  EXPECT_GT(harness.engine().Stats().counters.preemptions, 0u);
}

TEST_P(LongContextTest, WhereverItIsResumed) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  for (size_t i = 0; i < requests_.size(); ++i) {
    for (size_t done = 1; done < expected_[i].ids.size(); done += 3) {
      SequenceRequest request = requests_[i];
      const auto split = expected_[i].ids.begin() + static_cast<int64_t>(done);
      request.resumed_ids.assign(expected_[i].ids.begin(), split);
      const Answer answer = harness.Generate(request);
      EXPECT_EQ(answer.ids, std::vector<int32_t>(split, expected_[i].ids.end()))
          << "prompt of " << request.prompt_ids.size() << " resumed at " << done;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(ModelsAndFormats, LongContextTest,
                         testing::Values(Variant{"qwen1", KvFormat::kBf16},
                                         Variant{"qwen1", KvFormat::kInt8},
                                         Variant{"qwen2_5_yarn", KvFormat::kF32},
                                         Variant{"qwen2_5_yarn", KvFormat::kInt8}),
                         [](const auto& info) {
                           return std::string(info.param.model) + "_" +
                                  KvFormatName(info.param.format);
                         });

// The first generation's int8 cache: everything that rests on equal bits is off, and said so.
class QwenInt8EngineTest : public testing::Test {
 protected:
  void SetUp() override {
    options_ = TinyOptions("tests/parity/data/qwen1");
    options_.kv_format = KvFormat::kQwenInt8;
    options_.max_model_len = 64;
    options_.max_batch_tokens = 40;
  }
  EngineOptions options_;
};

TEST_F(QwenInt8EngineTest, PromisesNothingAndRefusesWhatNeedsIt) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  EXPECT_EQ(harness.engine().info().fingerprint, "");
  SequenceRequest resumed = GreedyRequest({1, 2, 3}, 8);
  resumed.resumed_ids = {4};
  absl::Status status = harness.engine().Submit(resumed).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("resumed_ids"));
  status = harness.engine().Submit(GreedyRequest(std::vector<int32_t>(41, 1), 8)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("41"));
}

TEST_F(QwenInt8EngineTest, PromptsStayWholeInBatchesAndAfterPreemption) {
  std::vector<SequenceRequest> requests;
  std::vector<std::vector<int32_t>> expected;
  std::mt19937 random(9);
  EngineHarness alone(options_);
  ASSERT_TRUE(alone.status().ok()) << alone.status();
  for (int i = 0; i < 8; ++i) {
    std::vector<int32_t> prompt(20 + random() % 20);
    for (int32_t& id : prompt) id = static_cast<int32_t>(random() % 101);
    requests.push_back(GreedyRequest(prompt, 24));
    expected.push_back(alone.Generate(requests.back()).ids);
  }
  EXPECT_EQ(alone.engine().Stats().counters.hit_tokens, 0u);
  EXPECT_EQ(alone.GenerateAll(requests), expected);
  options_.kv_cache_bytes = alone.engine().info().kv_bytes_per_token * 16 * 9;
  EngineHarness tight(options_);
  ASSERT_TRUE(tight.status().ok()) << tight.status();
  EXPECT_EQ(tight.GenerateAll(requests), expected);
  EXPECT_GT(tight.engine().Stats().counters.preemptions, 0u);
}

}  // namespace
}  // namespace qwenserve
