#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "engine/base/sha256.h"
#include "engine/model/qwen.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/reference_backend.h"
#include "tests/parity/golden.h"
#include "tests/parity/tiny_replica.h"

namespace qwenserve {
namespace {

struct NamedBackend {
  const char* name;
  std::function<std::unique_ptr<Backend>()> make;
};

std::unique_ptr<Backend> Cpu(int num_threads, const char* isa) {
  CpuBackendOptions options;
  options.num_threads = num_threads;
  options.isa = isa;
  auto backend = MakeCpuBackend(options);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return std::move(*backend);
}

// The best kernels that leave inputs in float: dots of bf16 round them.
const char* FloatIsa() { return MakeCpuBackend({.isa = "avx512"}).ok() ? "avx512" : "auto"; }

std::vector<NamedBackend> Backends() {
  return {{"cpu", [] { return Cpu(1, FloatIsa()); }},
          {"cpu, 3 threads", [] { return Cpu(3, FloatIsa()); }},
          {"portable", [] { return Cpu(1, "portable"); }},
          {"reference", [] { return std::make_unique<ReferenceBackend>(); }}};
}

RunOptions OnCpu(int tp = 1, KvFormat kv_format = KvFormat::kF32) {
  return {[] { return Cpu(1, FloatIsa()); }, tp, kv_format, nullptr};
}

ModelConfig ConfigOf(const Golden& golden) { return (*Checkpoint::Open(golden.dir))->config(); }

// How far a float32 forward pass may be from the exact one. The roundings on the way to a logit are
// those of the sums along the longest path: per layer two norms and the projections into qkv and
// gate_up (H each), out (Q) and down (F), and the scores (head_dim) and mix (positions) of
// attention; then a norm and the head (H each). n roundings of unit 2^-24 with independent signs
// add up to at most lambda * sqrt(n) * 2^-24, relative to the values that are summed, but for a
// chance of 2 exp(-lambda^2 / 2) (Higham and Mary, 2019): 3e-8 for lambda = 6. The largest logit
// stands for the values that are summed.
double Tolerance(const ModelConfig& config, const Golden& golden) {
  const double hidden = static_cast<double>(config.hidden_size);
  const double layer = 4 * hidden + static_cast<double>(config.num_query_heads * config.head_dim) +
                       static_cast<double>(config.ffn_size) + static_cast<double>(config.head_dim) +
                       static_cast<double>(golden.ids.size());
  const double roundings = static_cast<double>(config.num_layers) * layer + 2 * hidden;
  double largest = 0;
  for (const Golden::Case& test : golden.cases) {
    for (const auto& row : test.logits) {
      for (const float logit : row) largest = std::max(largest, std::abs(double{logit}));
    }
  }
  return 6 * std::sqrt(roundings) * std::ldexp(1.0, -24) * largest;
}

double MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    // A NaN compares false with everything and must not pass for equal.
    const double d = std::abs(double{a[i]} - double{b[i]});
    difference = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(difference, d);
  }
  return difference;
}

double MaxError(const Golden& golden, const Golden::Case& test, const Logits& logits) {
  double error = 0;
  for (size_t i = 0; i < golden.positions.size(); ++i) {
    error = std::max(error, MaxDifference(test.logits[i], logits[0][golden.positions[i]]));
  }
  return error;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && !a.empty() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class QwenForwardTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = ReadGolden(GetParam());
    config_ = ConfigOf(golden_);
    tolerance_ = Tolerance(config_, golden_);
  }

  std::vector<ForcedSequence> Forced(size_t test = 0) const {
    return {{golden_.ids, golden_.cases[test].prompt_tokens}};
  }

  Golden golden_;
  ModelConfig config_;
  double tolerance_ = 0;
};

TEST_P(QwenForwardTest, GivesTheGoldenLogits) {
  for (const NamedBackend& backend : Backends()) {
    for (const int tp : {1, 2, 4}) {
      double error = 0;
      for (size_t i = 0; i < golden_.cases.size(); ++i) {
        const auto sequences = Forced(i);
        const Logits logits = RunSteps(golden_.dir, sequences, OneShot(sequences),
                                       {backend.make, tp, KvFormat::kF32, nullptr});
        error = std::max(error, MaxError(golden_, golden_.cases[i], logits));
      }
      EXPECT_LT(error, tolerance_) << backend.name << " tp " << tp;
      std::printf("%s %s tp %d: max logit error %.2e, allowed %.2e\n", GetParam().c_str(),
                  backend.name, tp, error, tolerance_);
    }
  }
}

// Dots of bf16 pairs round the inputs of each of a layer's four products and the head's to 2^-9.
TEST_P(QwenForwardTest, Bf16DotsAreWithinTheirRoundingOfTheGoldenLogits) {
  if (!MakeCpuBackend({.isa = "avx512bf16"}).ok()) GTEST_SKIP() << "no dots of bf16 here";
  const auto sequences = Forced();
  const auto run = [&](const auto& steps) {
    return RunSteps(golden_.dir, sequences, steps,
                    {[] { return Cpu(1, "avx512bf16"); }, 1, KvFormat::kF32, nullptr});
  };
  const Logits logits = run(OneShot(sequences));
  double largest = 0;
  for (const auto& row : golden_.cases[0].logits) {
    for (const float logit : row) largest = std::max(largest, std::abs(double{logit}));
  }
  const double products = 4 * static_cast<double>(config_.num_layers) + 1;
  EXPECT_LT(MaxError(golden_, golden_.cases[0], logits),
            6 * std::sqrt(products) * std::ldexp(1.0, -9) * largest);
  const Logits parts = run(Chunked(sequences, 7));
  for (size_t p = 0; p < golden_.ids.size(); ++p) {
    ASSERT_TRUE(SameBits(logits[0][p], parts[0][p])) << "position " << p;
  }
}

// The contract behind reproducible tokens: a position's bits do not depend on how the positions
// were spread over steps, nor on the number of threads or the instruction set.
TEST_P(QwenForwardTest, AnySplitIntoStepsGivesTheSameBits) {
  const auto sequences = Forced();
  for (const int tp : {1, 3}) {
    for (const KvFormat kv_format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}) {
      const Logits whole =
          RunSteps(golden_.dir, sequences, OneShot(sequences), OnCpu(tp, kv_format));
      for (const int64_t chunk : {1, 7, 16, 33}) {
        const Logits parts =
            RunSteps(golden_.dir, sequences, Chunked(sequences, chunk), OnCpu(tp, kv_format));
        for (size_t p = 0; p < golden_.ids.size(); ++p) {
          ASSERT_TRUE(SameBits(whole[0][p], parts[0][p]))
              << "tp " << tp << " chunk " << chunk << " position " << p;
        }
      }
      for (const NamedBackend& backend : Backends()) {
        if (std::string(backend.name) == "reference") continue;
        const Logits other = RunSteps(golden_.dir, sequences, Chunked(sequences, 5),
                                      {backend.make, tp, kv_format, nullptr});
        for (size_t p = 0; p < golden_.ids.size(); ++p) {
          ASSERT_TRUE(SameBits(whole[0][p], other[0][p])) << backend.name << " position " << p;
        }
      }
    }
  }
}

TEST_P(QwenForwardTest, ABatchOfOneEqualsABatchOfMany) {
  // The golden sequence among four others of different lengths, in steps that mix single positions
  // of some with stretches of others.
  std::mt19937 random(7);
  std::vector<ForcedSequence> many = Forced();
  for (const int64_t length : {1, 13, 30, 48}) {
    ForcedSequence sequence;
    for (int64_t i = 0; i < length; ++i) {
      sequence.ids.push_back(static_cast<int32_t>(random() % config_.vocab_size));
    }
    sequence.prompt_tokens = (length + 1) / 2;
    many.push_back(sequence);
  }
  std::vector<int64_t> done(many.size(), 0);
  std::vector<Step> steps;
  for (bool more = true; more;) {
    more = false;
    Step step;
    for (size_t i = 0; i < many.size(); ++i) {
      const int64_t left = static_cast<int64_t>(many[i].ids.size()) - done[i];
      const int64_t count = std::min<int64_t>(left, random() % 3 == 0 ? random() % 20 : 1);
      if (count > 0) step.push_back({i, done[i], count});
      done[i] += count;
      more |= count < left;
    }
    if (!step.empty()) steps.push_back(step);
  }
  for (const int tp : {1, 2}) {
    const Logits batch = RunSteps(golden_.dir, many, steps, OnCpu(tp));
    for (size_t i = 0; i < many.size(); ++i) {
      const std::vector<ForcedSequence> alone = {many[i]};
      const Logits single = RunSteps(golden_.dir, alone, OneShot(alone), OnCpu(tp));
      for (size_t p = 0; p < many[i].ids.size(); ++p) {
        ASSERT_TRUE(SameBits(batch[i][p], single[0][p])) << "sequence " << i << " position " << p;
      }
    }
  }
}

// Both degrees are within the tolerance of the exact logits, so within twice that of each other;
// and where two ids are further apart than both may move, the choice is the same.
TEST_P(QwenForwardTest, TensorParallelismKeepsLogitsAndChoices) {
  const auto sequences = Forced();
  const Logits one = RunSteps(golden_.dir, sequences, OneShot(sequences), OnCpu(1));
  const double allowed = 2 * tolerance_;
  for (const int tp : {2, 4}) {
    const Logits other = RunSteps(golden_.dir, sequences, Chunked(sequences, 1), OnCpu(tp));
    int compared = 0;
    for (size_t p = 0; p < golden_.ids.size(); ++p) {
      EXPECT_LE(MaxDifference(one[0][p], other[0][p]), allowed) << "tp " << tp << " at " << p;
      std::vector<float> sorted = one[0][p];
      std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<float>());
      const double gap = *std::max_element(sorted.begin(), sorted.end()) - sorted[1];
      if (gap <= 2 * allowed) continue;
      ++compared;
      const auto argmax = [](const std::vector<float>& row) {
        return std::max_element(row.begin(), row.end()) - row.begin();
      };
      EXPECT_EQ(argmax(one[0][p]), argmax(other[0][p])) << "tp " << tp << " at " << p;
    }
    EXPECT_GT(compared, 40) << "too few clear choices to prove anything";
  }
}

INSTANTIATE_TEST_SUITE_P(AllFamilies, QwenForwardTest, ::testing::ValuesIn(GoldenModels()),
                         [](const auto& info) { return info.param; });

TEST(QwenTwinTest, Qwen1AndItsQwen2TwinGiveTheSameBits) {
  const Golden first = ReadGolden("qwen1_plain");
  const Golden second = ReadGolden("qwen1_5");
  ASSERT_EQ(first.ids, second.ids);
  const std::vector<ForcedSequence> sequences = {{first.ids, 48}};
  for (const int tp : {1, 2, 4}) {
    const Logits a = RunSteps(first.dir, sequences, OneShot(sequences), OnCpu(tp));
    const Logits b = RunSteps(second.dir, sequences, OneShot(sequences), OnCpu(tp));
    for (size_t p = 0; p < first.ids.size(); ++p) EXPECT_TRUE(SameBits(a[0][p], b[0][p])) << p;
  }
}

// The goldens of the two come from different oracles, formulas and a library: they vouch for each
// other.
TEST(QwenTwinTest, TheTwinsGoldensAgree) {
  const Golden first = ReadGolden("qwen1_plain");
  const Golden second = ReadGolden("qwen1_5");
  for (size_t i = 0; i < first.positions.size(); ++i) {
    EXPECT_LT(MaxDifference(first.cases[0].logits[i], second.cases[0].logits[i]),
              Tolerance(ConfigOf(first), first));
  }
}

// Each way of reaching beyond the training length moves the logits far outside the tolerance, so
// the goldens would catch its loss.
TEST(QwenLongContextTest, EachExtensionIsSeenInTheLogits) {
  const struct {
    const char* model;
    const char* what;
    std::function<void(ModelConfig&)> turn_off;
  } kExtensions[] = {{"qwen1", "ntk", [](ModelConfig& config) { config.ntk_train_length = 0; }},
                     {"qwen1", "logn", [](ModelConfig& config) { config.logn_train_length = 0; }},
                     {"qwen2_5_yarn", "yarn", [](ModelConfig& config) { config.yarn.reset(); }}};
  for (const auto& extension : kExtensions) {
    const Golden golden = ReadGolden(extension.model);
    RunOptions options = OnCpu();
    options.change_config = extension.turn_off;
    const std::vector<ForcedSequence> sequences = {{golden.ids, 48}};
    const Logits logits = RunSteps(golden.dir, sequences, OneShot(sequences), options);
    for (const Golden::Case& test : golden.cases) {
      if (test.prompt_tokens != 48) continue;
      EXPECT_GT(MaxError(golden, test, logits), 100 * Tolerance(ConfigOf(golden), golden))
          << extension.what;
    }
  }
}

// NTK's alpha belongs to the prompt: the same ids as a longer prompt give other logits.
TEST(QwenLongContextTest, AlphaIsThePromptsAndStaysWhileDecoding) {
  const Golden golden = ReadGolden("qwen1");
  ASSERT_EQ(golden.cases.size(), 3u);
  const double tolerance = Tolerance(ConfigOf(golden), golden);
  for (size_t a = 0; a < golden.cases.size(); ++a) {
    const std::vector<ForcedSequence> sequences = {{golden.ids, golden.cases[a].prompt_tokens}};
    const Logits logits = RunSteps(golden.dir, sequences, Chunked(sequences, 4), OnCpu());
    for (size_t b = 0; b < golden.cases.size(); ++b) {
      const double error = MaxError(golden, golden.cases[b], logits);
      if (a == b) {
        EXPECT_LT(error, tolerance);
      } else {
        EXPECT_GT(error, 100 * tolerance);
      }
    }
  }
}

// The prompt in one step, as the first generation's int8 cache wants it, or in steps of `chunk`.
std::vector<Step> PromptThenDecode(const ForcedSequence& sequence, int64_t chunk) {
  const auto length = static_cast<int64_t>(sequence.ids.size());
  std::vector<Step> steps;
  for (int64_t first = 0; first < length;) {
    const int64_t count =
        first < sequence.prompt_tokens ? std::min(chunk, sequence.prompt_tokens - first) : 1;
    steps.push_back({{0, first, count}});
    first += count;
  }
  return steps;
}

// A value at the border between two codes may fall to either, which moves a logit far more than
// roundings do; and the largest of each scale lies on the border of 254 and 255. So the measure is
// how far the format itself moves the logits: no other format, and no other cut of the prompt,
// comes even near its golden. OnePositionGivesItsValueAsStored has the codes exactly.
TEST(QwenInt8CacheTest, IsMetByNothingButItself) {
  for (const char* model : {"qwen1", "qwen1_plain"}) {
    const Golden golden = ReadGolden(model);
    ASSERT_EQ(golden.int8_cases.size(), golden.cases.size());
    for (const Golden::Case& test : golden.int8_cases) {
      const std::vector<ForcedSequence> sequences = {{golden.ids, test.prompt_tokens}};
      const auto error = [&](const NamedBackend& backend, KvFormat format, int64_t chunk, int tp) {
        const RunOptions options = {backend.make, tp, format, nullptr};
        return MaxError(
            golden, test,
            RunSteps(golden.dir, sequences, PromptThenDecode(sequences[0], chunk), options));
      };
      const NamedBackend cpu = Backends()[0];
      double others = error(cpu, KvFormat::kQwenInt8, 7, 1);
      for (const KvFormat format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}) {
        others = std::min(others, error(cpu, format, test.prompt_tokens, 1));
      }
      for (const NamedBackend& backend : Backends()) {
        for (const int tp : {1, 2}) {
          const double own = error(backend, KvFormat::kQwenInt8, test.prompt_tokens, tp);
          EXPECT_LT(own, others / 3) << model << " " << backend.name << " tp " << tp;
          std::printf("%s prompt %d %s tp %d: max logit error %.2e, others at least %.2e\n", model,
                      static_cast<int>(test.prompt_tokens), backend.name, tp, own, others);
        }
      }
    }
  }
}

TEST(GoldenFilesTest, AreThoseOfTheirChecksums) {
  std::ifstream sums("tests/parity/data/SHA256SUMS");
  std::string digest, name;
  int files = 0;
  while (sums >> digest >> name) {
    std::ifstream file(absl::StrCat("tests/parity/data/", name), std::ios::binary);
    std::stringstream bytes;
    bytes << file.rdbuf();
    EXPECT_EQ(Sha256Hex(bytes.str()), digest) << name;
    ++files;
  }
  EXPECT_GE(files, 4 * static_cast<int>(GoldenModels().size()));
}

}  // namespace
}  // namespace qwenserve
