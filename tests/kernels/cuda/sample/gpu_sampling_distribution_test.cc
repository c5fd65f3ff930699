// Frequencies of draws by the kernels against exact probabilities. Seeds are fixed, so the
// statistics never vary from run to run. That each draw is the CPU's is tested next door; here that
// they are draws from the right distribution.
#include <cmath>
#include <map>

#include "tests/kernels/cuda/sample/gpu_sampler_harness.h"
#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

constexpr int64_t kVocab = 50;
constexpr int kDraws = 1000;

// Rows that differ in one part of their key only.
std::vector<SampleRow> Draws(SampleRow row, int kind) {
  std::vector<SampleRow> rows;
  row.seed = 1234;
  row.position = 99;
  for (int i = 0; i < kDraws; ++i) {
    if (kind == 0) row.seed = static_cast<uint64_t>(i);
    if (kind == 1) row.position = i;
    if (kind == 2) row.sample_index = i;
    rows.push_back(row);
  }
  return rows;
}

// Mean and four standard deviations of a chi-square.
double Bound(double freedom) { return freedom + 4 * std::sqrt(2 * freedom) + 1e-9; }

// Chi-square of the draws; ids that are rare are one cell. *freedom: its degrees.
double ChiSquare(const std::vector<KeptId>& expected, const std::vector<SampledToken>& tokens,
                 double* freedom) {
  std::map<int32_t, int> counts;
  for (const SampledToken& token : tokens) ++counts[token.id];
  const auto draws = static_cast<double>(tokens.size());
  double sum = 0, rest_mean = 0, rest_count = 0;
  int cells = 0;
  size_t inside = 0;
  for (const KeptId& kept : expected) {
    const double mean = kept.probability * draws, count = counts[kept.id];
    inside += static_cast<size_t>(count);
    if (mean < 5) {
      rest_mean += mean;
      rest_count += count;
      continue;
    }
    sum += (count - mean) * (count - mean) / mean;
    ++cells;
  }
  EXPECT_EQ(inside, tokens.size()) << "an id outside the kept set was drawn";
  if (rest_mean >= 5) {
    sum += (rest_count - rest_mean) * (rest_count - rest_mean) / rest_mean;
    ++cells;
  }
  *freedom = cells - 1;
  return sum;
}

TEST(GpuSamplingDistribution, FrequenciesAreTheProbabilities) {
  const std::vector<int32_t> context = {3, 4, 5, 5, 6, 7, 7, 7, 40}, banned = {0, 2, 30};
  const std::vector<LogitBias> bias = {{1, 2.0f}, {8, -100.0f}, {9, -1.0f}};
  std::vector<SampleRow> settings = {
      {},
      {.temperature = 0.4f},
      {.temperature = 0.8f, .top_k = 7},
      {.top_p = 0.9f},
      {.min_p = 0.05f},
      {.temperature = 1.3f, .top_k = 30, .top_p = 0.9f, .min_p = 0.02f},
  };
  SampleRow edited = {.top_p = 0.95f, .repetition_penalty = 1.4f};
  edited.presence_penalty = 0.4f;
  edited.frequency_penalty = 0.3f;
  edited.context_ids = context;
  edited.num_prompt_ids = 3;
  edited.logit_bias = bias;
  edited.banned_ids = banned;
  settings.push_back(edited);
  edited.top_p = 1;
  settings.push_back(edited);

  Random random(21);
  const std::vector<float> logits = random.Normals(kVocab, 1.5f);
  GpuSamplerHarness gpu;
  for (size_t i = 0; i < settings.size(); ++i) {
    SCOPED_TRACE(i);
    double freedom = 0;
    const double chi_square =
        ChiSquare(ReferenceDistribution(logits.data(), kVocab, settings[i]),
                  gpu.DrawAll(logits, Draws(settings[i], static_cast<int>(i % 3))), &freedom);
    EXPECT_LT(chi_square, Bound(freedom));
  }
}

TEST(GpuSamplingDistribution, TheTestSeesAWrongTemperature) {
  Random random(21);
  const std::vector<float> logits = random.Normals(kVocab, 1.5f);
  GpuSamplerHarness gpu;
  double freedom = 0;
  const double chi_square =
      ChiSquare(ReferenceDistribution(logits.data(), kVocab, SampleRow()),
                gpu.DrawAll(logits, Draws({.temperature = 0.8f}, 1)), &freedom);
  EXPECT_GT(chi_square, Bound(freedom));
}

// A few ids have most of the mass; the rest of a real vocabulary shares what is left.
TEST(GpuSamplingDistribution, FrequenciesOfALargeVocabulary) {
  constexpr int64_t kBig = 151936;
  constexpr int kBigDraws = 100;
  Random random(5);
  std::vector<float> logits = random.Normals(kBig, 1.0f);
  const int32_t heavy[] = {3, 4095, 4096, 70000, 151935};
  for (int i = 0; i < 5; ++i) logits[heavy[i]] = 12.0f + 0.3f * static_cast<float>(i);
  GpuSamplerHarness gpu;
  for (const SampleRow& setting : {SampleRow{}, SampleRow{.top_p = 0.8f}, SampleRow{.top_k = 4}}) {
    std::vector<SampledToken> tokens;
    std::vector<SampleRow> rows = Draws(setting, 1);
    for (int i = 0; i < kBigDraws; i += 10) {
      for (SampledToken& token : gpu.DrawAll(logits, absl::MakeConstSpan(rows).subspan(i, 10))) {
        tokens.push_back(std::move(token));
      }
    }
    double freedom = 0;
    const double chi_square =
        ChiSquare(ReferenceDistribution(logits.data(), kBig, setting), tokens, &freedom);
    EXPECT_GE(freedom, 3);
    EXPECT_LT(chi_square, Bound(freedom));
  }
}

}  // namespace
}  // namespace qwenserve
