// The same request gives the same tokens and log-probabilities, bit for bit, whatever runs beside
// it, however the work was cut, and whether steps are planned one ahead: for every format of
// weights and cache. What it is compared with is the request alone, on one thread, step by step,
// with a cold cache.
#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/runtime/follower.h"
#include "gtest/gtest.h"
#include "tests/engine/determinism/determinism_harness.h"
#include "tests/parity/tiny_replica.h"

namespace qwenserve {
namespace {

class Determinism : public testing::TestWithParam<std::tuple<Format, bool>> {
 protected:
  const Format& format() const { return std::get<0>(GetParam()); }
  bool runs_ahead() const { return std::get<1>(GetParam()); }

  EngineOptions Options() const {
    EngineOptions options = TinyOptions(ModelDir(format()));
    options.weights = format().weights;
    options.kv_format = format().kv;
    options.max_running = 32;
    options.run_ahead = runs_ahead();
    options.kv_cache_bytes = 4 << 20;
    return options;
  }

  // The yardstick: one request at a time, one thread, nothing kept.
  const std::vector<Seen>& Expected() {
    static std::map<std::string, std::vector<Seen>> cache;
    std::vector<Seen>& expected = cache[format().name];
    if (expected.empty()) {
      EngineOptions options = Options();
      options.num_threads = 1;
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

  const std::vector<SequenceRequest> requests_ = Requests(32);
};

TEST_P(Determinism, TheRequestsTellFormatsAndSeedsApart) {
  size_t distinct = 0;
  for (size_t i = 1; i < Expected().size(); ++i) {
    distinct += Expected()[i].ids != Expected()[i - 1].ids ? 1 : 0;
  }
  EXPECT_GT(distinct, Expected().size() * 3 / 4);
  size_t tokens = 0;
  for (const Seen& seen : Expected()) tokens += seen.ids.size();
  EXPECT_GT(tokens, Expected().size() * 16);
}

TEST_P(Determinism, InBatchesWithStrangers) {
  for (size_t batch : {2, 3, 5, 8, 32}) {
    SCOPED_TRACE(batch);
    EngineOptions options = Options();
    options.prefix_cache = false;
    EngineHarness harness(options);
    ExpectSame(harness, batch);
  }
}

TEST_P(Determinism, WithAnyChunksAndThreads) {
  for (int64_t budget : {16, 17, 40, 512}) {
    for (int threads : {1, 2, 3, 4}) {
      if (runs_ahead() && threads % 2 == 0) continue;
      SCOPED_TRACE(budget);
      SCOPED_TRACE(threads);
      EngineOptions options = Options();
      options.max_batch_tokens = budget;
      options.max_running = std::min<int64_t>(options.max_running, budget);
      options.num_threads = threads;
      options.prefix_cache = false;
      EngineHarness harness(options);
      ExpectSame(harness, 32);
    }
  }
}

TEST_P(Determinism, FromAColdAndAWarmCache) {
  EngineHarness harness(Options());
  ExpectSame(harness, 1);
  ExpectSame(harness, 32);
  const Answer again = harness.Generate(requests_[0]);
  EXPECT_GE(again.cached_prompt_tokens, 32);
  EXPECT_EQ(SeenOf(again), Expected()[0]);
}

TEST_P(Determinism, AfterForcedPreemption) {
  EngineOptions options = Options();
  options.max_model_len = 160;
  options.kv_cache_bytes = 0;
  // Room for about two of the longest.
  EngineHarness probe(Options());
  ASSERT_TRUE(probe.status().ok()) << probe.status();
  options.kv_cache_bytes = (4 << 20) / probe.engine().Stats().total_blocks * 22;
  EngineHarness harness(options);
  ExpectSame(harness, 32);
  EXPECT_GT(harness.engine().Stats().counters.preemptions, 0);
}

TEST_P(Determinism, ResumedAtEveryIndex) {
  EngineHarness harness(Options());
  ASSERT_TRUE(harness.status().ok()) << harness.status();
  for (size_t i : {0, 1, 5, 8, 9}) {
    const Seen& whole = Expected()[i];
    std::vector<SequenceRequest> resumed;
    for (size_t done = 0; done < whole.ids.size(); ++done) {
      SequenceRequest request = requests_[i];
      request.sampling.num_prompt_logprobs = -1;
      request.resumed_ids.assign(whole.ids.begin(), whole.ids.begin() + done);
      resumed.push_back(request);
    }
    const std::vector<Answer> answers = harness.AnswerAll(resumed);
    for (size_t done = 0; done < answers.size(); ++done) {
      SCOPED_TRACE(testing::Message() << "request " << i << " from " << done);
      const Seen seen = SeenOf(answers[done]);
      EXPECT_EQ(seen.ids, std::vector<int32_t>(whole.ids.begin() + done, whole.ids.end()));
      EXPECT_EQ(seen.finish, whole.finish);
      ASSERT_LE(seen.logprobs.size(), whole.logprobs.size());
      EXPECT_EQ(seen.logprobs,
                TokenBits(whole.logprobs.end() - seen.logprobs.size(), whole.logprobs.end()));
      EXPECT_EQ(whole.logprobs.empty(), seen.logprobs.empty());
    }
  }
}

TEST_P(Determinism, OverRanksAsThreadsAndAsProcesses) {
  for (int tp : {2, 3}) {
    SCOPED_TRACE(tp);
    EngineOptions options = Options();
    options.tp = tp;
    EngineOptions alone = options;
    alone.prefix_cache = false;
    alone.run_ahead = false;
    std::vector<Seen> expected;
    EngineHarness single(alone);
    ASSERT_TRUE(single.status().ok()) << single.status();
    for (const SequenceRequest& request : requests_) {
      expected.push_back(SeenOf(single.Generate(request)));
    }
    for (RankMode mode : {RankMode::kThreads, RankMode::kProcesses}) {
      options.rank_mode = mode;
      options.num_threads = 4;
      EngineHarness harness(options);
      ASSERT_TRUE(harness.status().ok()) << harness.status();
      EXPECT_EQ(SeenOf(harness.AnswerAll(requests_)), expected);
      EXPECT_EQ(harness.engine().info().fingerprint, single.engine().info().fingerprint);
    }
  }
}

TEST_P(Determinism, TheCacheOfDecodingEqualsThatOfPrefill) {
  std::vector<ForcedSequence> sequences;
  for (size_t i : {0, 3, 8}) sequences.push_back({requests_[i].prompt_ids, 4});
  std::vector<std::string> decoded, chunked, whole;
  RunOptions options;
  options.weights = format().weights;
  options.kv_format = format().kv;
  const auto run = [&](int threads, const std::vector<Step>& steps, std::vector<std::string>* kv) {
    options.make_backend = [threads] { return *MakeCpuBackend({.num_threads = threads}); };
    options.kv_bytes = kv;
    return RunSteps(ModelDir(format()), sequences, steps, options);
  };
  const Logits by_token = run(1, Chunked(sequences, 1), &decoded);
  const Logits by_chunk = run(2, Chunked(sequences, 19), &chunked);
  const Logits at_once = run(3, OneShot(sequences), &whole);
  EXPECT_TRUE(decoded == whole) << "keys and values made by decoding differ from those of prefill";
  EXPECT_TRUE(chunked == whole);
  EXPECT_EQ(by_token, at_once);
  EXPECT_EQ(by_chunk, at_once);
}

TEST_P(Determinism, OnEveryInstructionSetOfTheSameKernels) {
  // Those that promise the same bits, by the fingerprint.
  EngineOptions options = Options();
  options.isa = "portable";
  EngineHarness portable(options);
  ASSERT_TRUE(portable.status().ok()) << portable.status();
  const std::vector<Seen> expected = SeenOf(portable.AnswerAll(requests_));
  for (const std::string isa : {"avx2", "avx512", "avx512bf16", "neon"}) {
    if (!CpuIsaName(isa).ok()) continue;
    options.isa = isa;
    EngineHarness harness(options);
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    if (harness.engine().info().fingerprint != portable.engine().info().fingerprint) continue;
    EXPECT_EQ(SeenOf(harness.AnswerAll(requests_)), expected) << isa;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, Determinism,
    testing::Combine(
        testing::Values(
            Format{"bf16", kQwen2}, Format{"f32_kv_f32", kQwen2, DType::kF32, {}, KvFormat::kF32},
            Format{"fp16", kQwen2, DType::kF16}, Format{"qwen1_bf16", kQwen1},
            Format{"qwen3_bf16_kv_int8", kQwen3, DType::kBf16, {}, KvFormat::kInt8},
            Format{"int8", kQwen2, DType::kBf16, WeightChoice::kInt8},
            Format{"int4", kQwen2, DType::kBf16, WeightChoice::kInt4},
            Format{"qwen1_int4_kv_int8", kQwen1, DType::kBf16, WeightChoice::kInt4,
                   KvFormat::kInt8},
            Format{"qwen3_int8", kQwen3, DType::kF16, WeightChoice::kInt8},
            Format{.name = "gptq4", .architecture = kQwen2, .quantized = QuantizedStyle()},
            Format{.name = "qwen1_gptq8_kv_int8",
                   .architecture = kQwen1,
                   .kv = KvFormat::kInt8,
                   .quantized = QuantizedStyle{.bits = 8, .group_size = 64}},
            Format{.name = "gptq4_act_order_asymmetric",
                   .architecture = kQwen2,
                   .quantized =
                       QuantizedStyle{
                           .group_size = 32, .act_order = true, .v2 = true, .symmetric = false}},
            Format{.name = "qwen3_awq_int8_head",
                   .architecture = kQwen3,
                   .weights = WeightChoice::kInt4,
                   .quantized =
                       QuantizedStyle{.method = "awq", .group_size = 64, .symmetric = false}}),
        testing::Bool()),
    [](const auto& info) {
      return std::get<0>(info.param).name + (std::get<1>(info.param) ? "_ahead" : "");
    });

TEST(Fingerprint, ChangesWithEachOfItsParts) {
  std::map<std::string, std::string> seen;
  const auto add = [&](const std::string& name, const EngineOptions& options) {
    EngineHarness harness(options);
    ASSERT_TRUE(harness.status().ok()) << name << harness.status();
    const std::string fingerprint = harness.engine().info().fingerprint;
    for (const auto& [other, value] : seen) EXPECT_NE(fingerprint, value) << name << " " << other;
    seen[name] = fingerprint;
  };
  TinyModel model;
  const EngineOptions base =
      TinyOptions(WriteTinyCheckpoint(absl::StrCat("fingerprint", seen.size()), model));
  add("base", base);
  EngineOptions options = base;
  options.weights = WeightChoice::kInt8;
  add("int8", options);
  options.weights = WeightChoice::kInt4;
  add("int4", options);
  options = base;
  options.kv_format = KvFormat::kF32;
  add("kv f32", options);
  options.kv_format = KvFormat::kInt8;
  add("kv int8", options);
  options = base;
  options.tp = 2;
  add("tp 2", options);
  model.seed = 2;
  add("other weights",
      TinyOptions(WriteTinyCheckpoint(absl::StrCat("fingerprint", seen.size()), model)));
  model.seed = 1;
  model.eos_id = 7;
  add("other eos",
      TinyOptions(WriteTinyCheckpoint(absl::StrCat("fingerprint", seen.size()), model)));
  model.eos_id = 1;
  model.architecture = kQwen3;
  add("other family",
      TinyOptions(WriteTinyCheckpoint(absl::StrCat("fingerprint", seen.size()), model)));

  EngineOptions threads = base;
  threads.num_threads = 3;
  threads.max_batch_tokens = 64;
  EngineHarness same(threads);
  EXPECT_EQ(same.engine().info().fingerprint, seen["base"]) << "these change no token";
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  if (qwenserve::IsFollowerCommand(argc, argv)) return qwenserve::RunFollower(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
