// Frequencies of draws against exact probabilities, for every combination of parameters that
// shapes them. Seeds are fixed, so the statistics never vary from run to run.
#include <cmath>
#include <map>

#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

constexpr int64_t kVocab = 50;
constexpr int kDraws = 20000;

struct Setting {
  const char* name;
  SampleRow row;
};

const std::vector<int32_t>& Context() {
  static const auto* context = new std::vector<int32_t>{3, 4, 5, 5, 6, 7, 7, 7, 40};
  return *context;
}
const std::vector<LogitBias>& Bias() {
  static const auto* bias = new std::vector<LogitBias>{{1, 2.0f}, {8, -100.0f}, {9, -1.0f}};
  return *bias;
}
const std::vector<int32_t>& Banned() {
  static const auto* banned = new std::vector<int32_t>{0, 2, 30};
  return *banned;
}

SampleRow Penalised(SampleRow row) {
  row.repetition_penalty = 1.4f;
  row.presence_penalty = 0.4f;
  row.frequency_penalty = 0.3f;
  row.context_ids = Context();
  row.num_prompt_ids = 3;
  return row;
}
SampleRow Edited(SampleRow row) {
  row.logit_bias = Bias();
  row.banned_ids = Banned();
  return row;
}

std::vector<Setting> Settings() {
  std::vector<Setting> settings = {
      {"plain", {}},
      {"cold", {.temperature = 0.3f}},
      {"hot", {.temperature = 3.0f}},
      {"top_k", {.temperature = 0.8f, .top_k = 7}},
      {"top_p", {.top_p = 0.9f}},
      {"hot top_p", {.temperature = 2.0f, .top_p = 0.7f}},
      {"min_p", {.min_p = 0.05f}},
      {"top_k and top_p", {.top_k = 20, .top_p = 0.8f}},
      {"top_k and min_p", {.temperature = 1.5f, .top_k = 20, .min_p = 0.1f}},
      {"top_p and min_p", {.top_p = 0.95f, .min_p = 0.02f}},
      {"all cuts", {.temperature = 1.3f, .top_k = 30, .top_p = 0.9f, .min_p = 0.02f}},
  };
  const size_t plain = settings.size();
  for (size_t i = 0; i < plain; ++i) {
    settings.push_back({settings[i].name, Penalised(settings[i].row)});
    settings.push_back({settings[i].name, Edited(settings[i].row)});
    settings.push_back({settings[i].name, Edited(Penalised(settings[i].row))});
  }
  return settings;
}

// What one of `seed`, position or sample index alone must make random.
enum class Vary { kSeed, kPosition, kSampleIndex };

void ExpectFrequencies(Backend& backend, const std::vector<float>& logits, SampleRow row,
                       Vary vary) {
  const std::vector<KeptId> expected = ReferenceDistribution(logits.data(), kVocab, row);
  std::map<int32_t, int> counts;
  row.seed = 1234;
  row.position = 99;
  for (int i = 0; i < kDraws; ++i) {
    if (vary == Vary::kSeed) row.seed = static_cast<uint64_t>(i);
    if (vary == Vary::kPosition) row.position = i;
    if (vary == Vary::kSampleIndex) row.sample_index = i;
    std::vector<float> copy = logits;
    SampledToken token;
    backend.Sample(copy.data(), kVocab, kVocab, {&row, 1}, nullptr, &token);
    ++counts[token.id];
  }
  double chi_square = 0;
  int cells = 0, inside = 0;
  double rest_mean = 0, rest_count = 0;
  for (const KeptId& kept : expected) {
    const double mean = kept.probability * kDraws;
    inside += counts[kept.id];
    if (mean < 5) {
      rest_mean += mean;
      rest_count += counts[kept.id];
      continue;
    }
    chi_square += (counts[kept.id] - mean) * (counts[kept.id] - mean) / mean;
    ++cells;
  }
  if (rest_mean >= 5) {
    chi_square += (rest_count - rest_mean) * (rest_count - rest_mean) / rest_mean;
    ++cells;
  }
  EXPECT_EQ(inside, kDraws) << "an id outside the kept set was drawn";
  // Mean and four standard deviations of a chi-square with cells - 1 degrees of freedom.
  const double freedom = cells - 1;
  EXPECT_LT(chi_square, freedom + 4 * std::sqrt(2 * freedom) + 1e-9);
}

TEST(SamplingDistribution, FrequenciesAreTheProbabilities) {
  Random random(21);
  const std::vector<float> logits = random.Normals(kVocab, 1.5f);
  const auto backend = Cpu("auto");
  int i = 0;
  for (const Setting& setting : Settings()) {
    SCOPED_TRACE(setting.name);
    ExpectFrequencies(*backend, logits, setting.row, static_cast<Vary>(i++ % 3));
  }
}

TEST(SamplingDistribution, TheTestSeesAWrongTemperature) {
  Random random(21);
  const std::vector<float> logits = random.Normals(kVocab, 1.5f);
  const auto backend = Cpu("auto");
  SampleRow row = {.temperature = 0.9f};
  std::vector<int> counts(kVocab);
  for (row.position = 0; row.position < kDraws; ++row.position) {
    std::vector<float> copy = logits;
    SampledToken token;
    backend->Sample(copy.data(), kVocab, kVocab, {&row, 1}, nullptr, &token);
    ++counts[token.id];
  }
  double chi_square = 0;
  for (const KeptId& kept : ReferenceDistribution(logits.data(), kVocab, SampleRow())) {
    const double mean = kept.probability * kDraws;
    chi_square += (counts[kept.id] - mean) * (counts[kept.id] - mean) / mean;
  }
  EXPECT_GT(chi_square, kVocab - 1 + 4 * std::sqrt(2.0 * (kVocab - 1)));
}

// Big enough that the set lies within the first candidates in some rows and beyond in others.
TEST(SamplingDistribution, NothingOutsideTheNucleusIsEverDrawn) {
  constexpr int64_t kBig = 6000;
  Random random(5);
  const auto backend = Cpu("auto");
  for (float scale : {0.5f, 2.0f, 6.0f}) {
    const std::vector<float> logits = random.Normals(kBig, scale);
    for (float top_p : {0.1f, 0.5f, 0.9f, 0.999f}) {
      SampleRow row = {.temperature = 1.2f, .top_p = top_p};
      std::vector<bool> kept(kBig, false);
      for (const KeptId& k : ReferenceDistribution(logits.data(), kBig, row)) kept[k.id] = true;
      for (row.position = 0; row.position < 300; ++row.position) {
        std::vector<float> copy = logits;
        SampledToken token;
        backend->Sample(copy.data(), kBig, kBig, {&row, 1}, nullptr, &token);
        ASSERT_TRUE(kept[token.id]) << "scale " << scale << " top_p " << top_p;
      }
    }
  }
}

}  // namespace
}  // namespace qwenserve
