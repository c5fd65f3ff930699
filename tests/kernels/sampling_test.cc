// Sample against the sorted oracle of the reference, and against exact probabilities.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/test_device.h"

namespace qwenserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<int32_t> Ids(const std::vector<SampledToken>& tokens) {
  std::vector<int32_t> ids;
  for (const SampledToken& token : tokens) ids.push_back(token.id);
  return ids;
}

// An emulated GPU makes some thousand draws a second.
bool IsSlow() { return MaxTestWork() < int64_t{1} << 30; }

class SamplingTest : public DeviceTest {
 protected:
  int32_t Draw(const std::vector<float>& logits, const SampleRow& row, int64_t vocab_size = 0) {
    const auto stride = static_cast<int64_t>(logits.size());
    return ops_->Sample(logits, stride, vocab_size == 0 ? stride : vocab_size, {&row, 1})[0].id;
  }

  // For each of the rows one draw from the same logits.
  std::vector<int32_t> DrawEach(const std::vector<float>& logits,
                                const std::vector<SampleRow>& rows) {
    const auto stride = static_cast<int64_t>(logits.size());
    const size_t most = std::max<size_t>(1, 500000 / logits.size());  // at once
    std::vector<int32_t> ids;
    for (size_t begin = 0; begin < rows.size(); begin += most) {
      const auto part = absl::MakeConstSpan(rows).subspan(begin, most);
      std::vector<float> copies;
      for (size_t i = 0; i < part.size(); ++i) {
        copies.insert(copies.end(), logits.begin(), logits.end());
      }
      for (int32_t id : Ids(ops_->Sample(copies, stride, stride, part))) ids.push_back(id);
    }
    return ids;
  }

  // Every id that some seed draws.
  std::set<int32_t> Support(const std::vector<float>& logits, SampleRow row, int draws = 3000) {
    std::vector<SampleRow> rows;
    for (row.seed = 0; row.seed < static_cast<uint64_t>(draws); ++row.seed) rows.push_back(row);
    const std::vector<int32_t> ids = DrawEach(logits, rows);
    return {ids.begin(), ids.end()};
  }

  ReferenceBackend reference_;
  HostOps oracle_{reference_};
  Random random_{3};
};

QS_INSTANTIATE_FOR_TEST_DEVICES(SamplingTest);

TEST_P(SamplingTest, GreedyTakesTheHighestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(Draw({1, 5, 3, 5}, {.temperature = 0}), 1);
  EXPECT_EQ(Draw({-3, -1, -2}, {.temperature = 0}), 1);
  EXPECT_EQ(Draw({1, 5, 3, 9}, {.temperature = 0}, 3), 1);  // 9 is padding
  EXPECT_EQ(Draw({-kInfinity, -7, -kInfinity}, {.temperature = 0, .seed = 5}), 1);
}

TEST_P(SamplingTest, RowsWithoutAnAnswerGiveMinusOne) {
  const uint32_t none = 0, first = 1;
  for (float temperature : {0.0f, 1.0f}) {
    EXPECT_EQ(Draw({1, std::nanf(""), 2}, {.temperature = temperature}), -1);
    EXPECT_EQ(Draw({1, kInfinity, 2}, {.temperature = temperature}), -1);
    EXPECT_EQ(Draw({-kInfinity, -kInfinity}, {.temperature = temperature}), -1);
    EXPECT_EQ(Draw({1, 2}, {.temperature = temperature, .allowed_ids = &none}), -1);
    // What the mask hides may be anything.
    EXPECT_EQ(Draw({1, std::nanf("")}, {.temperature = temperature, .allowed_ids = &first}), 0);
  }
}

TEST_P(SamplingTest, RowsOfABatchDoNotMix) {
  std::vector<float> logits = random_.Normals(16 * 40, 3.0f);
  std::vector<SampleRow> rows(16);
  std::vector<int32_t> alone(16);
  for (int i = 0; i < 16; ++i) {
    rows[i] = {.temperature = i % 4 == 0 ? 0.0f : 1.0f, .seed = 9, .position = i};
    if (i == 5) logits[5 * 40 + 3] = std::nanf("");
    alone[i] = Draw({logits.begin() + i * 40, logits.begin() + (i + 1) * 40}, rows[i]);
  }
  std::vector<int32_t> drawn;
  EXPECT_EQ(Ids(ops_->Sample(logits, 40, 40, rows, &drawn)), alone);
  EXPECT_EQ(drawn, alone);
  EXPECT_EQ(alone[5], -1);
}

TEST_P(SamplingTest, EqualKeysDrawEqualIdsAndEachPartOfTheKeyCounts) {
  const std::vector<float> logits(1000, 0.0f);
  const SampleRow row = {.seed = 1, .position = 2, .sample_index = 3};
  const int32_t id = Draw(logits, row);
  EXPECT_EQ(Draw(logits, row), id);
  for (SampleRow other : {SampleRow{.seed = 2, .position = 2, .sample_index = 3},
                          SampleRow{.seed = 1, .position = 3, .sample_index = 3},
                          SampleRow{.seed = 1, .position = 2, .sample_index = 4},
                          SampleRow{.seed = uint64_t{1} << 63, .position = 2, .sample_index = 3}}) {
    EXPECT_NE(Draw(logits, other), id);
  }
  // Part of the contract with other replicas and versions.
  EXPECT_EQ(id, 170) << "the noise has changed: raise the numerics version";
}

// Draws with a probability p of each id; statistic of all ids with an expected count of 5 or more.
TEST_P(SamplingTest, FrequenciesMatchTheProbabilities) {
  if (IsSlow()) GTEST_SKIP() << "200000 draws";
  const std::vector<float> logits = random_.Normals(50, 1.5f);
  const SampleRow settings[] = {{},
                                {.temperature = 0.7f},
                                {.temperature = 2.0f, .top_k = 20},
                                {.top_p = 0.8f},
                                {.top_k = 30, .top_p = 0.9f, .min_p = 0.02f}};
  constexpr int kDraws = 40000;
  for (SampleRow row : settings) {
    const std::vector<KeptId> expected = ReferenceDistribution(logits.data(), 50, row);
    std::vector<int> counts(50);
    row.seed = 77;
    std::vector<SampleRow> rows;
    for (row.position = 0; row.position < kDraws; ++row.position) rows.push_back(row);
    for (int32_t id : DrawEach(logits, rows)) ++counts[id];
    double chi_square = 0;
    int cells = 0, drawn = 0;
    for (const KeptId& kept : expected) {
      const double mean = kept.probability * kDraws;
      drawn += counts[kept.id];
      if (mean < 5) continue;
      chi_square += (counts[kept.id] - mean) * (counts[kept.id] - mean) / mean;
      ++cells;
    }
    EXPECT_EQ(drawn, kDraws) << "an id outside the kept set was drawn";
    // Mean plus four standard deviations of a chi-square with cells - 1 degrees of freedom. The
    // draws are fixed by the seed, so this never varies from run to run.
    EXPECT_LT(chi_square, cells - 1 + 4 * std::sqrt(2.0 * (cells - 1)));
    EXPECT_GT(chi_square, cells - 1 - 4 * std::sqrt(2.0 * (cells - 1)));
  }
}

TEST_P(SamplingTest, KeepsExactlyWhatTheOracleKeeps) {
  const std::vector<float> logits = random_.Normals(24, 1.0f);
  if (IsSlow()) GTEST_SKIP() << "30000 draws";
  const SampleRow settings[] = {{.top_k = 1},
                                {.top_k = 5},
                                {.top_k = 24},
                                {.top_p = 0.3f},
                                {.top_p = 0.75f},
                                {.top_p = 1e-6f},
                                {.min_p = 0.2f},
                                {.min_p = 1.0f},
                                {.top_k = 8, .top_p = 0.5f},
                                {.temperature = 0.5f, .top_p = 0.6f, .min_p = 0.1f}};
  for (const SampleRow& row : settings) {
    std::set<int32_t> expected;
    for (const KeptId& kept : ReferenceDistribution(logits.data(), 24, row)) {
      expected.insert(kept.id);
    }
    EXPECT_EQ(Support(logits, row), expected)
        << "top_k " << row.top_k << " top_p " << row.top_p << " min_p " << row.min_p;
  }
}

TEST_P(SamplingTest, TopKAmongEqualsKeepsTheLowestIds) {
  const int draws = IsSlow() ? 100 : 3000;
  EXPECT_EQ(Support({2, 2, 5, 2, 2}, {.temperature = 3, .top_k = 3}, draws),
            (std::set<int32_t>{0, 1, 2}));
  // So many that they are counted rather than sorted.
  const std::set<int32_t> many =
      Support(std::vector<float>(6000, 1.0f), {.temperature = 3, .top_k = 4097}, 400);
  EXPECT_LE(*many.rbegin(), 4096);  // of 400 draws from all 6000 a third would be beyond
  EXPECT_GE(*many.rbegin(), 4000);
  // The third of four equal quarters reaches 0.6.
  EXPECT_EQ(Support({1, 1, 1, 1}, {.top_p = 0.6f}, draws), (std::set<int32_t>{0, 1, 2}));
}

TEST_P(SamplingTest, PenaltiesFollowTheirFormulas) {
  const std::vector<int32_t> context = {0, 1, 1, 2, 2, 2};  // prompt 0 1; generated 1 2 2 2
  // Greedy over pairs: the winner tells on which side of the bound a penalised logit lies.
  const auto wins = [&](std::vector<float> logits, int32_t id, SampleRow row) {
    row.temperature = 0;
    row.context_ids = context;
    row.num_prompt_ids = 2;
    return Draw(logits, row) == id;
  };
  SampleRow row = {.repetition_penalty = 2.0f};
  EXPECT_TRUE(wins({9.9f, 0, 0, 4.8f}, 0, row));  // 4.95: once, however often it occurs
  EXPECT_TRUE(wins({9.5f, 0, 0, 4.8f}, 3, row));
  EXPECT_TRUE(wins({-9, -9, -1, -1.9f}, 3, row));  // -2: negative logits grow
  EXPECT_TRUE(wins({-9, -9, -1, -2.1f}, 2, row));
  row = {.presence_penalty = 1.0f};
  EXPECT_TRUE(wins({5, 0, 5.9f, 4.95f}, 0, row));  // generated ids only, once: 2 is at 4.9
  EXPECT_TRUE(wins({4, 0, 5.9f, 4.85f}, 2, row));
  row = {.frequency_penalty = 0.5f};
  EXPECT_TRUE(wins({0, 0, 6.4f, 4.95f}, 3, row));  // three times: 4.9
  EXPECT_TRUE(wins({0, 5.5f, 6.4f, 4.95f}, 1, row));
  row = {.repetition_penalty = 2.0f, .presence_penalty = 1.0f, .frequency_penalty = 0.5f};
  EXPECT_TRUE(wins({0, 0, 12, 3.6f}, 3, row));  // 12 / 2 - 1 - 1.5 = 3.5
  EXPECT_TRUE(wins({0, 0, 12, 3.4f}, 2, row));
}

TEST_P(SamplingTest, TheLastIdOfTheContextMayLieInTheDevicesMemory) {
  const std::vector<float> logits = random_.Normals(60, 1.0f);
  std::vector<int32_t> context = {4, 9, 9, 17, 30, 9};
  const std::vector<int32_t> drawn = {-1, 30, 9, 41};
  for (const SampleRow& penalties :
       {SampleRow{.repetition_penalty = 3.0f}, SampleRow{.presence_penalty = 2.0f},
        SampleRow{.frequency_penalty = 1.5f},
        SampleRow{.repetition_penalty = 1.3f, .frequency_penalty = 0.7f, .logit_bias = {}}}) {
    for (const int32_t& last : drawn) {
      SampleRow row = penalties;
      row.num_prompt_ids = 2;
      row.context_ids = context;
      row.last_id = &last;
      std::vector<int32_t> whole = context;
      if (last >= 0) whole.push_back(last);
      for (row.seed = 0; row.seed < 50; ++row.seed) {
        SampleRow on_host = row;
        on_host.last_id = nullptr;
        on_host.context_ids = whole;
        ASSERT_EQ(Draw(logits, row), Draw(logits, on_host)) << "last id " << last;
      }
      // Nothing but the prompt before it.
      row.context_ids = absl::MakeConstSpan(context).first(2);
      const std::vector<KeptId> expected = ReferenceDistribution(logits.data(), 60, row);
      row.temperature = 0;
      EXPECT_EQ(Draw(logits, row), expected.front().id);
    }
  }
}

TEST_P(SamplingTest, PenaltiesLeaveNothingBehindForTheNextRow) {
  const std::vector<int32_t> context = {1, 1, 2, 2};
  SampleRow penalised = {.temperature = 0, .repetition_penalty = 1.5f, .frequency_penalty = 1.0f};
  penalised.context_ids = context;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Draw({1, 3.9f, 5, 2}, penalised), 3);
  penalised.context_ids = {};
  EXPECT_EQ(Draw({1, 3.9f, 5, 2}, penalised), 2);
}

TEST_P(SamplingTest, MaskAllowsOnlyItsBits) {
  std::vector<uint32_t> mask(4);
  std::set<int32_t> allowed = {3, 31, 32, 64, 97};
  for (int32_t id : allowed) mask[id / 32] |= 1u << (id % 32);
  std::vector<float> logits(100, 0.0f);
  logits[50] = 100;
  EXPECT_EQ(Support(logits, {.allowed_ids = mask.data()}, 400), allowed);
  EXPECT_EQ(Support(logits, {.top_k = 2, .allowed_ids = mask.data()}, 100),
            (std::set<int32_t>{3, 31}));
  EXPECT_EQ(Support(logits, {.top_p = 0.35f, .allowed_ids = mask.data()}, 100),
            (std::set<int32_t>{3, 31}));
}

TEST_P(SamplingTest, DrawsWhatTheOracleDraws) {
  const std::vector<float> logits = random_.Normals(40, 1.0f);
  std::vector<SampleRow> rows;
  for (int position = 0; position < (IsSlow() ? 300 : 3000); ++position) {
    rows.push_back({.temperature = 1.5f, .top_p = 0.95f, .position = position});
  }
  std::vector<int32_t> expected;
  for (const SampleRow& row : rows) {
    expected.push_back(oracle_.Sample(logits, 40, 40, {&row, 1})[0].id);
  }
  EXPECT_EQ(DrawEach(logits, rows), expected);
}

TEST_P(SamplingTest, DrawsWhatTheOracleDrawsFromALargeVocabulary) {
  const int64_t vocab = IsSlow() ? 9001 : 151936, stride = vocab + 128;
  const std::vector<float> logits = random_.Normals(stride, 3.0f);
  std::vector<int32_t> context(300);
  for (int32_t& id : context)
    id = static_cast<int32_t>(random_.Below(static_cast<uint32_t>(vocab)));
  std::vector<SampleRow> rows;
  for (float temperature : {0.0f, 0.3f, 1.0f, 1.7f}) {
    for (int32_t top_k : {0, 20, 5000, 100000}) {
      for (float top_p : {0.8f, 1.0f}) {
        SampleRow row = {.temperature = temperature, .top_k = top_k, .top_p = top_p};
        row.min_p = rows.size() % 3 == 0 ? 0.05f : 0.0f;
        row.repetition_penalty = 1.1f;
        row.presence_penalty = rows.size() % 2 == 0 ? 0.5f : 0.0f;
        row.seed = 1234567 + rows.size();
        row.position = static_cast<int64_t>(rows.size()) * 1000;
        row.context_ids = context;
        row.num_prompt_ids = 100;
        rows.push_back(row);
      }
    }
  }
  std::vector<float> all;
  for (size_t i = 0; i < rows.size(); ++i) all.insert(all.end(), logits.begin(), logits.end());
  EXPECT_EQ(Ids(ops_->Sample(all, stride, vocab, rows)),
            Ids(oracle_.Sample(all, stride, vocab, rows)));
}

}  // namespace
}  // namespace qwenserve
