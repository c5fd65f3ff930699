// The same request gives the same tokens and log-probabilities, bit for bit, on a GPU as well:
// alone and step by step, in batches, in chunks, with a plan one step ahead, from a warm cache,
// after a preemption, resumed anywhere, whatever the order in which a block's threads run.
#include <algorithm>
#include <utility>

#include "gtest/gtest.h"
#include "tests/engine/determinism/determinism_harness.h"
#include "tests/engine/runtime/device_engine.h"

namespace qwenserve {
namespace {

// An emulated GPU gets fewer and shorter requests.
bool IsSlow() { return MaxTestWork() < int64_t{1} << 30; }

class DeviceDeterminism : public testing::TestWithParam<Format> {
 protected:
  DeviceDeterminism() : requests_(Requests(IsSlow() ? 8 : 32)) {
    if (!IsSlow()) return;
    for (SequenceRequest& request : requests_) request.sampling.max_tokens = 16;
  }
  void SetUp() override {
    const absl::Status status = CheckTestDevice();
    if (absl::IsNotFound(status)) GTEST_SKIP() << "no device: " << status;
    ASSERT_TRUE(status.ok()) << status;
  }

  EngineOptions Options(int variant) const {
    EngineOptions options = OnTestDevice(TinyOptions(ModelDir(GetParam())), variant);
    options.weights = GetParam().weights;
    options.kv_format = GetParam().kv;
    options.max_running = 32;
    options.kv_cache_bytes = 4 << 20;
    return options;
  }

  // The yardstick: one request at a time, nothing kept, one step after the other.
  const std::vector<Seen>& Expected() {
    static std::map<std::string, std::vector<Seen>> cache;
    std::vector<Seen>& expected = cache[GetParam().name];
    if (expected.empty()) {
      EngineOptions options = Options(1);
      options.prefix_cache = false;
      options.run_ahead = false;
      EngineHarness harness(options);
      EXPECT_TRUE(harness.status().ok()) << harness.status();
      for (const SequenceRequest& request : requests_) {
        expected.push_back(SeenOf(harness.Generate(request)));
      }
    }
    return expected;
  }

  // All requests at once, in groups of `batch`.
  void ExpectSame(EngineHarness& harness, size_t batch) {
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    for (size_t begin = 0; begin < requests_.size(); begin += batch) {
      const size_t end = std::min(requests_.size(), begin + batch);
      const std::vector<SequenceRequest> part(requests_.begin() + begin, requests_.begin() + end);
      const std::vector<Seen> answers = SeenOf(harness.AnswerAll(part));
      for (size_t i = 0; i < answers.size(); ++i) {
        ASSERT_EQ(answers[i], Expected()[begin + i]) << "request " << begin + i;
      }
    }
  }

  std::vector<SequenceRequest> requests_;
};

// Every family, format of weights and of the cache that a GPU has.
INSTANTIATE_TEST_SUITE_P(
    Formats, DeviceDeterminism,
    testing::Values(Format{"bf16", kQwen2},
                    Format{"qwen1_fp16_kv_int8", kQwen1, DType::kF16, {}, KvFormat::kInt8},
                    Format{"qwen3_int8", kQwen3, DType::kBf16, WeightChoice::kInt8},
                    Format{.name = "gptq4_act_order_asymmetric_kv_int8",
                           .architecture = kQwen2,
                           .kv = KvFormat::kInt8,
                           .quantized = QuantizedStyle{.group_size = 32,
                                                       .act_order = true,
                                                       .v2 = true,
                                                       .symmetric = false}}),
    [](const auto& info) { return info.param.name; });

TEST_P(DeviceDeterminism, TheRequestsTellFormatsAndSeedsApart) {
  size_t distinct = 0, tokens = 0;
  for (size_t i = 1; i < Expected().size(); ++i) {
    distinct += Expected()[i].ids != Expected()[i - 1].ids ? 1 : 0;
    tokens += Expected()[i].ids.size();
  }
  EXPECT_GT(distinct, Expected().size() * 3 / 4);
  EXPECT_GT(tokens, Expected().size() * 6);
}

TEST_P(DeviceDeterminism, InBatchesAndChunksPlannedAhead) {
  for (const auto& [budget, batch] : {std::pair<int64_t, size_t>{17, requests_.size()}, {512, 3}}) {
    SCOPED_TRACE(budget);
    EngineOptions options = Options(static_cast<int>(budget));
    options.max_batch_tokens = budget;
    options.max_running = std::min<int64_t>(options.max_running, budget);
    options.prefix_cache = false;
    EngineHarness harness(options);
    ExpectSame(harness, batch);
  }
}

TEST_P(DeviceDeterminism, FromAColdAndAWarmCache) {
  EngineHarness harness(Options(4));
  ExpectSame(harness, requests_.size());
  ExpectSame(harness, 5);
  EXPECT_GE(harness.Generate(requests_[0]).cached_prompt_tokens, 32);
}

// Three sequences that begin in two blocks each and end in four, where there are eight.
TEST_P(DeviceDeterminism, AfterForcedPreemption) {
  EngineOptions options = Options(5);
  options.max_model_len = 64;
  EngineHarness probe(options);
  ASSERT_TRUE(probe.status().ok()) << probe.status();
  options.kv_cache_bytes = (4 << 20) / probe.engine().Stats().total_blocks * 8;
  std::vector<SequenceRequest> requests;
  std::vector<Seen> expected;
  for (int i = 0; i < 3; ++i) {
    std::vector<int32_t> prompt;
    for (int j = 0; j < 24; ++j) prompt.push_back((11 * j + 5 + i) % kVocab);
    requests.push_back(i == 0 ? GreedyRequest(prompt, 36) : SampledRequest(prompt, 36, 7 + i));
    expected.push_back(SeenOf(probe.Generate(requests.back())));
  }
  EngineHarness harness(options);
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  ASSERT_EQ(harness.engine().Stats().total_blocks, 8);
  EXPECT_EQ(SeenOf(harness.AnswerAll(requests)), expected);
  EXPECT_GT(harness.engine().Stats().counters.preemptions, 0);
}

TEST_P(DeviceDeterminism, ResumedAnywhere) {
  EngineHarness harness(Options(6));
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  for (size_t i : {1, 4}) {
    const Seen& whole = Expected()[i];
    std::vector<SequenceRequest> resumed;
    for (size_t done = 1; done < whole.ids.size(); done += 4) {
      SequenceRequest request = requests_[i];
      request.sampling.num_prompt_logprobs = -1;
      request.resumed_ids.assign(whole.ids.begin(), whole.ids.begin() + done);
      resumed.push_back(request);
    }
    const std::vector<Answer> answers = harness.AnswerAll(resumed);
    for (size_t k = 0; k < answers.size(); ++k) {
      const Seen seen = SeenOf(answers[k]);
      EXPECT_EQ(seen.ids, std::vector<int32_t>(whole.ids.begin() + 1 + 4 * k, whole.ids.end()))
          << "request " << i << " from " << 1 + 4 * k;
      EXPECT_EQ(seen.finish, whole.finish);
    }
  }
}

TEST_P(DeviceDeterminism, OverRanks) {
  if (!RanksMeetThroughTheHost()) GTEST_SKIP() << "ranks need a GPU each";
  EngineOptions options = Options(1);
  options.tp = 2;
  EngineOptions alone = options;
  alone.prefix_cache = false;
  alone.run_ahead = false;
  EngineHarness single(alone), together(options);
  ASSERT_TRUE(single.status().ok()) << single.status();
  ASSERT_TRUE(together.status().ok()) << together.status();
  const std::vector<Seen> answers = SeenOf(together.AnswerAll(requests_));
  for (size_t i = 0; i < requests_.size(); i += 2) {
    EXPECT_EQ(SeenOf(single.Generate(requests_[i])), answers[i]) << "request " << i;
  }
}

}  // namespace
}  // namespace qwenserve
