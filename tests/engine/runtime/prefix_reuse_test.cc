// Sequences that begin alike, over real models: whatever is shared, evicted or computed again, ids
// and log-probabilities are bit for bit those of a replica that shares nothing and runs one request
// after the other.
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {
namespace {

constexpr int kVocab = 320;
constexpr int kAnswer = 40;

struct Result {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  bool operator==(const Result& other) const {
    return ids == other.ids && logprobs == other.logprobs;
  }
};

Result ResultOf(const Answer& answer) { return {answer.ids, answer.logprobs}; }

std::vector<Result> RunAll(EngineHarness& harness, const std::vector<SequenceRequest>& requests) {
  std::vector<uint64_t> sequences;
  for (const SequenceRequest& request : requests) sequences.push_back(harness.Submit(request));
  std::vector<Result> results;
  for (uint64_t sequence : sequences) results.push_back(ResultOf(harness.Wait(sequence)));
  return results;
}

class PrefixReuse : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    TinyModel model;
    model.architecture = GetParam();
    model.vocab_size = kVocab;
    if (model.architecture == "QWenLMHeadModel") {
      model.num_kv_heads = model.num_query_heads;
      // A training length of 48: equal beginnings of prompts on both sides of it are different.
      model.max_positions = 192;
    }
    options_ = TinyOptions(WriteTinyCheckpoint("reuse_" + model.architecture, model));
    options_.max_model_len = 160;
    MakeRequests();
    EngineOptions alone = options_;
    alone.prefix_cache = false;
    EngineHarness harness(alone);
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    for (const SequenceRequest& request : requests_) {
      expected_.push_back(ResultOf(harness.Generate(request)));
      ASSERT_EQ(expected_.back().ids.size(), static_cast<size_t>(kAnswer));
      ASSERT_EQ(expected_.back().logprobs.size(), static_cast<size_t>(kAnswer));
    }
    EXPECT_EQ(harness.engine().Stats().counters.hit_tokens, 0u);
    EXPECT_EQ(harness.engine().Stats().cached_blocks, 0);
  }

  // Three system prompts with many continuations, greedy and sampled, some of them twice.
  void MakeRequests() {
    std::mt19937 random(3);
    const auto append = [&random](int count, std::vector<int32_t>* ids) {
      while (count-- > 0) ids->push_back(static_cast<int32_t>(random() % kVocab));
    };
    std::vector<std::vector<int32_t>> systems(3);
    for (auto& system : systems) append(20 + static_cast<int>(random() % 40), &system);
    for (int i = 0; i < 24; ++i) {
      std::vector<int32_t> prompt = systems[i % 3];
      append(static_cast<int>(random() % 50), &prompt);
      SequenceRequest request =
          i % 2 == 0 ? GreedyRequest(prompt, kAnswer) : SampledRequest(prompt, kAnswer, 70 + i);
      request.sampling.num_logprobs = 0;
      if (i % 8 == 3) requests_.push_back(request);
      requests_.push_back(std::move(request));
    }
  }

  // Blocks of the KV cache, for engines that are to have few.
  int64_t BlockBytes() {
    EngineHarness probe(options_);
    return options_.kv_cache_bytes / probe.engine().Stats().total_blocks;
  }

  EngineOptions options_;
  std::vector<SequenceRequest> requests_;
  std::vector<Result> expected_;
};

TEST_P(PrefixReuse, AWarmCacheGivesWhatAColdOneGave) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(round);
    EXPECT_EQ(RunAll(harness, requests_), expected_);
  }
  const SchedulerCounters counters = harness.engine().Stats().counters;
  EXPECT_GT(counters.hit_tokens, counters.queried_tokens / 2);
  // One by one: every full block of a prompt is there, and its last token is computed.
  for (size_t i = 0; i < requests_.size(); ++i) {
    const Answer answer = harness.Generate(requests_[i]);
    EXPECT_EQ(ResultOf(answer), expected_[i]);
    EXPECT_EQ(answer.cached_prompt_tokens,
              static_cast<int64_t>(requests_[i].prompt_ids.size() - 1) / 16 * 16);
  }
}

TEST_P(PrefixReuse, AnyChunksAndThreadsGiveTheSame) {
  for (int64_t rows : {1, 7, 33}) {
    SCOPED_TRACE(rows);
    EngineOptions options = options_;
    options.max_batch_tokens = rows;
    options.num_threads = static_cast<int>(1 + rows % 3);
    options.max_step = absl::Microseconds(rows);
    EngineHarness harness(options);
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    EXPECT_EQ(RunAll(harness, requests_), expected_);
    EXPECT_EQ(RunAll(harness, requests_), expected_);
  }
}

TEST_P(PrefixReuse, PreemptionAndEvictionChangeNothing) {
  EngineOptions options = options_;
  options.kv_cache_bytes = 13 * BlockBytes();
  EngineHarness harness(options);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  for (int round = 0; round < 3; ++round) EXPECT_EQ(RunAll(harness, requests_), expected_);
  const EngineStats stats = harness.engine().Stats();
  EXPECT_GT(stats.counters.preemptions, 0u);
  EXPECT_GT(stats.counters.evictions, 0u);
  EXPECT_GT(stats.counters.hit_tokens, 0u);
  EXPECT_EQ(stats.free_blocks, stats.total_blocks);
}

// Samples draw what they draw alone, from one prefill.
TEST_P(PrefixReuse, SamplesOfOnePromptShareItsBlocks) {
  SequenceRequest request = SampledRequest(requests_[1].prompt_ids, kAnswer, 5);
  while (request.prompt_ids.size() < 75) request.prompt_ids.push_back(9);
  request.sampling.num_logprobs = 0;
  std::vector<SequenceRequest> samples(4, request);
  for (int i = 0; i < 4; ++i) samples[i].sample_index = i;
  EngineOptions alone = options_;
  alone.prefix_cache = false;
  EngineHarness apart(alone);
  ASSERT_TRUE(apart.status().ok()) << apart.status();
  std::vector<Result> expected;
  for (const SequenceRequest& sample : samples) {
    expected.push_back(ResultOf(apart.Generate(sample)));
  }
  EXPECT_NE(expected[0].ids, expected[1].ids);

  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  EXPECT_EQ(RunAll(harness, samples), expected);
  EXPECT_EQ(harness.engine().Stats().counters.prompt_tokens, 75u + 3 * (75 - 64));
  EXPECT_EQ(harness.engine().Stats().counters.cached_prompt_tokens, 3u * 64);
}

// The chat goes on: the keys and values that decoding made serve the next prompt, which must draw
// what it draws when all of it is computed at once. And so for an answer begun elsewhere.
TEST_P(PrefixReuse, WhatDecodingStoredIsWhatPrefillWouldStore) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  EngineOptions alone = options_;
  alone.prefix_cache = false;
  EngineHarness apart(alone);
  ASSERT_TRUE(apart.status().ok()) << apart.status();
  for (size_t i : {size_t{0}, size_t{1}, size_t{9}}) {
    SequenceRequest turn = requests_[i];
    turn.sampling.max_tokens = 30;
    for (int turns = 0; turns < 2; ++turns) {
      const Answer answer = harness.Generate(turn);
      EXPECT_EQ(ResultOf(answer), ResultOf(apart.Generate(turn)));
      turn.prompt_ids.insert(turn.prompt_ids.end(), answer.ids.begin(), answer.ids.end());
      turn.prompt_ids.push_back(11);
    }
    for (size_t done = 0; done <= expected_[i].ids.size(); ++done) {
      SequenceRequest resumed = requests_[i];
      resumed.resumed_ids.assign(expected_[i].ids.begin(), expected_[i].ids.begin() + done);
      const Result rest = ResultOf(harness.Generate(resumed));
      EXPECT_EQ(rest.ids,
                std::vector<int32_t>(expected_[i].ids.begin() + done, expected_[i].ids.end()));
      EXPECT_EQ(rest.logprobs, std::vector<float>(expected_[i].logprobs.begin() + done,
                                                  expected_[i].logprobs.end()));
    }
  }
}

TEST_P(PrefixReuse, TenantsShareNothing) {
  EngineHarness harness(options_);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  SequenceRequest request = requests_[0];
  while (request.prompt_ids.size() < 40) request.prompt_ids.push_back(9);
  harness.Generate(request);
  EXPECT_EQ(harness.Generate(request).cached_prompt_tokens,
            (request.prompt_ids.size() - 1) / 16 * 16);
  request.cache_salt = "another";
  EXPECT_EQ(harness.Generate(request).cached_prompt_tokens, 0);
}

INSTANTIATE_TEST_SUITE_P(Families, PrefixReuse,
                         testing::Values("QWenLMHeadModel", "Qwen2ForCausalLM",
                                         "Qwen3ForCausalLM"));

}  // namespace
}  // namespace qwenserve
