// Sampling through a whole replica: log-probabilities, limits and bias do what they say, in the
// same bits whatever else happens; a sequence with broken logits ends alone.
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "engine/runtime/engine.h"
#include "engine/runtime/follower.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

void ExpectSame(const std::vector<SampledToken>& a, const std::vector<SampledToken>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].id, b[i].id);
    EXPECT_EQ(std::bit_cast<uint32_t>(a[i].logprob), std::bit_cast<uint32_t>(b[i].logprob)) << i;
    ASSERT_EQ(a[i].top.size(), b[i].top.size());
    for (size_t t = 0; t < a[i].top.size(); ++t) {
      EXPECT_EQ(a[i].top[t].id, b[i].top[t].id);
      EXPECT_EQ(std::bit_cast<uint32_t>(a[i].top[t].logprob),
                std::bit_cast<uint32_t>(b[i].top[t].logprob));
    }
  }
}

// Every second one with log-probabilities of the prompt too.
std::vector<SequenceRequest> ScoredRequests(int vocab_size) {
  std::vector<SequenceRequest> requests = MixedRequests(8, vocab_size);
  for (size_t i = 0; i < requests.size(); ++i) {
    SamplingParams& sampling = requests[i].sampling;
    sampling.num_logprobs = static_cast<int32_t>(i % 3) * 5;
    if (i % 2 == 0) sampling.num_prompt_logprobs = static_cast<int32_t>(i);
    if (i % 4 == 1) sampling.logit_bias = {{3, 4.0f}, {200, -2.5f}};
    if (i % 4 == 3) sampling.min_tokens = 20;
  }
  return requests;
}

class EngineSamplingTest : public testing::Test {
 protected:
  std::vector<Answer> OneByOne(const EngineOptions& options) {
    EngineHarness harness(options);
    EXPECT_TRUE(harness.status().ok()) << harness.status();
    std::vector<Answer> answers;
    for (const SequenceRequest& request : requests_) answers.push_back(harness.Generate(request));
    return answers;
  }
  void ExpectSameTogether(const EngineOptions& options, const std::vector<Answer>& expected) {
    EngineHarness harness(options);
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    std::vector<uint64_t> sequences;
    for (const SequenceRequest& request : requests_) sequences.push_back(harness.Submit(request));
    for (size_t i = 0; i < sequences.size(); ++i) {
      SCOPED_TRACE(i);
      const Answer answer = harness.Wait(sequences[i]);
      EXPECT_EQ(answer.ids, expected[i].ids);
      ExpectSame(answer.tokens, expected[i].tokens);
      ExpectSame(answer.prompt_logprobs, expected[i].prompt_logprobs);
    }
  }

  const TinyModel model_;
  const std::string dir_ = WriteTinyCheckpoint("engine_sampling", model_);
  const EngineOptions options_ = TinyOptions(dir_);
  const std::vector<SequenceRequest> requests_ = ScoredRequests(model_.vocab_size);
};

TEST_F(EngineSamplingTest, LogprobsHaveTheSameBitsInEveryBatchAndCut) {
  const std::vector<Answer> expected = OneByOne(options_);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_THAT(expected[i].tokens, SizeIs(expected[i].ids.size()));
    for (size_t t = 0; t < expected[i].ids.size(); ++t) {
      EXPECT_EQ(expected[i].tokens[t].id, expected[i].ids[t]);
      EXPECT_EQ(expected[i].tokens[t].top.size(), requests_[i].sampling.num_logprobs);
    }
    ASSERT_THAT(expected[i].prompt_logprobs,
                SizeIs(i % 2 == 0 ? requests_[i].prompt_ids.size() - 1 : 0));
    for (size_t p = 0; p < expected[i].prompt_logprobs.size(); ++p) {
      EXPECT_EQ(expected[i].prompt_logprobs[p].id, requests_[i].prompt_ids[p + 1]);
    }
  }
  for (int64_t budget : {2, 7, 64}) {
    SCOPED_TRACE(budget);
    EngineOptions options = options_;
    options.max_batch_tokens = budget;
    options.max_running = budget == 7 ? 3 : 16;  // rows of the vocabulary's buffers
    options.num_threads = budget == 2 ? 1 : 3;
    ExpectSameTogether(options, expected);
  }
}

// What a prompt is scored with is what its tokens would have been drawn with.
TEST_F(EngineSamplingTest, ScoresOfAPromptAreThoseOfAnAnswer) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  SequenceRequest request = GreedyRequest({5, 6, 7}, 20);
  request.sampling.num_logprobs = 3;
  const Answer answer = harness.Generate(request);
  request.prompt_ids.insert(request.prompt_ids.end(), answer.ids.begin(), answer.ids.end());
  request.sampling.num_prompt_logprobs = 3;
  request.sampling.max_tokens = 1;
  const Answer scored = harness.Generate(request);
  ASSERT_THAT(scored.prompt_logprobs, SizeIs(22));
  ExpectSame({scored.prompt_logprobs.begin() + 2, scored.prompt_logprobs.end()}, answer.tokens);
  // Again, now that the prompt may be in a cache.
  ExpectSame(harness.Generate(request).prompt_logprobs, scored.prompt_logprobs);
}

TEST_F(EngineSamplingTest, ResumedAtEveryIndexTheRestIsTheSame) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  for (SequenceRequest request : {requests_[1], requests_[3]}) {
    request.sampling.max_tokens = 12;
    request.sampling.min_tokens = 7;
    request.sampling.ignore_eos = false;
    request.sampling.num_prompt_logprobs = -1;
    const Answer whole = harness.Generate(request);
    for (size_t at = 0; at < whole.ids.size(); ++at) {
      SCOPED_TRACE(at);
      request.resumed_ids.assign(whole.ids.begin(), whole.ids.begin() + at);
      const Answer rest = harness.Generate(request);
      EXPECT_EQ(rest.ids, std::vector<int32_t>(whole.ids.begin() + at, whole.ids.end()));
      ExpectSame(rest.tokens, {whole.tokens.begin() + at, whole.tokens.end()});
      EXPECT_EQ(rest.finish, whole.finish);
    }
  }
}

TEST_F(EngineSamplingTest, SamplesOfOneRequestDifferAndAreReproducible) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  std::vector<std::vector<int32_t>> samples;
  for (int32_t index : {0, 1, 2, 1}) {
    SequenceRequest request = SampledRequest({5, 6, 7}, 12, 44);
    request.sample_index = index;
    samples.push_back(harness.Generate(request).ids);
  }
  EXPECT_NE(samples[0], samples[1]);
  EXPECT_NE(samples[1], samples[2]);
  EXPECT_EQ(samples[1], samples[3]);
}

TEST_F(EngineSamplingTest, TheEndWaitsForMinTokens) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  // With this bias eos comes at once, unless it is banned.
  SequenceRequest request = GreedyRequest({5, 6, 7}, 20);
  request.sampling.ignore_eos = false;
  request.sampling.logit_bias = {{model_.eos_id, 100.0f}};
  EXPECT_THAT(harness.Generate(request).ids, IsEmpty());
  request.sampling.min_tokens = 5;
  Answer answer = harness.Generate(request);
  EXPECT_THAT(answer.ids, SizeIs(5));
  EXPECT_EQ(answer.finish, FinishReason::kStop);
  EXPECT_EQ(answer.stop_token_id, model_.eos_id);
  // Ignored, it is a token like any other, and a stop id ends the answer as eos would.
  request.sampling.ignore_eos = true;
  answer = harness.Generate(request);
  EXPECT_EQ(answer.ids, std::vector<int32_t>(20, model_.eos_id));
  EXPECT_EQ(answer.finish, FinishReason::kLength);
  request.sampling.stop_token_ids = {model_.eos_id};
  answer = harness.Generate(request);
  EXPECT_THAT(answer.ids, SizeIs(5));
  EXPECT_THAT(answer.ids, Not(Contains(model_.eos_id)));
  EXPECT_EQ(answer.finish, FinishReason::kStop);
}

TEST_F(EngineSamplingTest, BrokenLogitsEndTheirSequenceOnly) {
  TinyModel model = model_;
  model.nan_id = 9;
  EngineOptions options = TinyOptions(WriteTinyCheckpoint("engine_sampling_nan", model));
  options.max_batch_tokens = 6;
  std::vector<SequenceRequest> requests = MixedRequests(6, 8);  // ids below 8
  EngineHarness alone(options);
  ASSERT_TRUE(alone.status().ok()) << alone.status();
  const auto expected = alone.GenerateAll(requests);

  EngineHarness harness(options);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  std::vector<uint64_t> good, bad;
  for (size_t i = 0; i < requests.size(); ++i) {
    SequenceRequest broken = requests[i];
    broken.prompt_ids.push_back(9);
    if (i % 2 == 0) broken.sampling.num_prompt_logprobs = 1;
    bad.push_back(harness.Submit(broken));
    good.push_back(harness.Submit(requests[i]));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(harness.Wait(good[i]).ids, expected[i]);
    const Answer broken = harness.Wait(bad[i]);
    EXPECT_EQ(broken.finish, FinishReason::kNumeric);
    EXPECT_EQ(broken.error.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(broken.ids, IsEmpty());
  }
  EXPECT_TRUE(harness.engine().Health().ok());
}

// The bits of one group do not depend on how its ranks find the token.
TEST_F(EngineSamplingTest, PairsAndWholeRowsGiveTheSameTokensAndLogprobs) {
  EngineOptions options = options_;
  for (int tp : {2, 3}) {
    SCOPED_TRACE(tp);
    options.tp = tp;
    options.rank_mode = RankMode::kThreads;
    options.sample_pairs = 0;
    const std::vector<Answer> expected = OneByOne(options);
    for (int64_t pairs : {1, 20, 64}) {
      SCOPED_TRACE(pairs);
      options.sample_pairs = pairs;
      ExpectSameTogether(options, expected);
    }
    options.sample_pairs = 20;
    options.rank_mode = RankMode::kProcesses;
    ExpectSameTogether(options, expected);
  }
}

TEST_F(EngineSamplingTest, BothWaysAreTakenAndCounted) {
  EngineOptions options = options_;
  options.tp = 2;
  EngineHarness harness(options);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  harness.Generate(GreedyRequest({5, 6}, 10));
  EngineStats stats = harness.engine().Stats();
  EXPECT_GE(stats.rows_from_pairs, 10);
  EXPECT_EQ(stats.rows_gathered, 0);
  SequenceRequest request = GreedyRequest({5, 6}, 10);
  request.sampling.temperature = 1.0f;
  request.sampling.top_k = 100;  // more than the pairs
  harness.Generate(request);
  EXPECT_EQ(harness.engine().Stats().rows_gathered, 10);
  request.sampling.top_k = 0;
  request.sampling.repetition_penalty = 1.1f;
  harness.Generate(request);
  EXPECT_EQ(harness.engine().Stats().rows_gathered, 20);
  request.sampling.repetition_penalty = 1.0f;
  harness.Generate(request);
  EXPECT_EQ(harness.engine().Stats().rows_gathered, 20);
  EXPECT_GE(harness.engine().Stats().rows_from_pairs, stats.rows_from_pairs + 10);
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  if (qwenserve::IsFollowerCommand(argc, argv)) return qwenserve::RunFollower(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
