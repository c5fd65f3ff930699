// A vocabulary cut into parts gives the tokens and log-probabilities of the whole, bit for bit,
// wherever the parts prove them; and where they must.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

constexpr int64_t kVocab = 3000;

class ShardSamplerTest : public testing::Test {
 protected:
  // What a group of ranks does with one row. The parts end at `cuts`.
  bool DrawSharded(const std::vector<float>& logits, const std::vector<int64_t>& cuts,
                   int64_t pairs, const SampleRow& row, SampledToken* token) {
    std::vector<std::vector<TokenLogit>> tops(cuts.size());
    bool sound = true;
    for (size_t i = 0; i < cuts.size(); ++i) {
      const int64_t begin = i == 0 ? 0 : cuts[i - 1];
      sound &= sampler().Top(logits.data() + begin, cuts[i] - begin, begin, pairs, &tops[i]);
    }
    ShardedRow all;
    std::vector<TokenLogit> top;
    if (sound) top = MergeTops(tops, pairs, &all.all_in_top);
    for (size_t i = 0; i < cuts.size() && !top.empty(); ++i) {
      const int64_t begin = i == 0 ? 0 : cuts[i - 1];
      AddPart(sampler().Weigh(row, logits.data() + begin, cuts[i] - begin, begin, top[0].logit),
              &all.weights);
    }
    all.top = top;
    return sampler().Draw(row, kVocab, all, token);
  }

  SampledToken DrawWhole(std::vector<float> logits, const SampleRow& row) {
    SampledToken token;
    whole_->Sample(logits.data(), kVocab, kVocab, {&row, 1}, nullptr, &token);
    return token;
  }

  static void ExpectSame(const SampledToken& a, const SampledToken& b) {
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(std::bit_cast<uint32_t>(a.logprob), std::bit_cast<uint32_t>(b.logprob));
    ASSERT_EQ(a.top.size(), b.top.size());
    for (size_t i = 0; i < a.top.size(); ++i) {
      EXPECT_EQ(a.top[i].id, b.top[i].id);
      EXPECT_EQ(std::bit_cast<uint32_t>(a.top[i].logprob),
                std::bit_cast<uint32_t>(b.top[i].logprob));
    }
  }

  // Many seeds of one kind of row. Returns how many the pairs proved.
  int Compare(SampleRow row, float scale, int64_t pairs, int draws = 150) {
    const std::vector<int64_t> cuts = {1000, 1001, 2500, kVocab};
    int proved = 0;
    for (int i = 0; i < draws; ++i) {
      std::vector<float> logits = random_.Normals(kVocab, scale);
      // Equal logits in different parts, so that the lowest id has to win across the cuts.
      if (i % 3 == 0) logits[2700] = logits[3] = logits[1000] = 4 * scale;
      row.seed = static_cast<uint64_t>(i);
      row.position = 7 * i;
      SampledToken token;
      if (!DrawSharded(logits, cuts, pairs, row, &token)) continue;
      ++proved;
      ExpectSame(token, DrawWhole(logits, row));
    }
    return proved;
  }

  ShardSampler& sampler() { return *parts_->shard_sampler(); }

  std::unique_ptr<Backend> parts_ = *MakeCpuBackend({.num_threads = 3});
  std::unique_ptr<Backend> whole_ = Cpu("portable");
  Random random_{31};
};

TEST_F(ShardSamplerTest, GreedyAndScoredRowsAndWholeDrawsAreAlwaysProved) {
  EXPECT_EQ(Compare({.temperature = 0}, 2, 1), 150);
  EXPECT_EQ(Compare({.temperature = 0, .num_logprobs = 5}, 2, 20), 150);
  EXPECT_EQ(Compare({.temperature = 0.7f}, 2, 1), 150);
  EXPECT_EQ(Compare({.temperature = 1.5f, .min_p = 0.1f, .num_logprobs = 0}, 2, 1), 150);
  EXPECT_EQ(Compare({.num_logprobs = 20, .given_id = 1000}, 2, 20), 150);
  EXPECT_EQ(Compare({.num_logprobs = 0, .given_id = kVocab - 1}, 2, 1), 150);
}

TEST_F(ShardSamplerTest, TopKIsProvedUpToThePairs) {
  EXPECT_EQ(Compare({.temperature = 1.2f, .top_k = 20, .top_p = 0.8f}, 2, 20), 150);
  EXPECT_EQ(Compare({.top_k = 20, .min_p = 0.2f, .num_logprobs = 3}, 2, 64), 150);
  EXPECT_EQ(Compare({.top_k = 21}, 2, 20), 0);
}

TEST_F(ShardSamplerTest, TopPIsProvedWhereItsSetIsWithinThePairs) {
  // Steep logits: a few ids have all the mass. Flat ones: thousands are needed.
  EXPECT_EQ(Compare({.top_p = 0.9f, .num_logprobs = 1}, 12, 64), 150);
  EXPECT_EQ(Compare({.top_p = 0.9f}, 0.5f, 64), 0);
  const int some = Compare({.top_p = 0.6f}, 2.5f, 64, 400);
  EXPECT_GT(some, 0);
  EXPECT_LT(some, 400);
}

TEST_F(ShardSamplerTest, FewerFiniteLogitsThanPairs) {
  std::vector<float> logits(kVocab, -std::numeric_limits<float>::infinity());
  logits[5] = 1;
  logits[2999] = 2;
  logits[1000] = 1.5f;
  for (SampleRow row : {SampleRow{.temperature = 0, .num_logprobs = 20},
                        SampleRow{.top_k = 500, .num_logprobs = 20}, SampleRow{.top_p = 0.99f}}) {
    for (row.seed = 0; row.seed < 50; ++row.seed) {
      SampledToken token;
      ASSERT_TRUE(DrawSharded(logits, {1000, 2000, kVocab}, 20, row, &token));
      ExpectSame(token, DrawWhole(logits, row));
    }
  }
}

TEST_F(ShardSamplerTest, UnusableRowsAreKnownWithoutTheWhole) {
  const std::vector<int64_t> cuts = {1500, kVocab};
  SampledToken token;
  std::vector<float> logits = random_.Normals(kVocab, 1);
  logits[1700] = std::nanf("");
  ASSERT_TRUE(DrawSharded(logits, cuts, 20, {}, &token));
  EXPECT_EQ(token.id, -1);
  logits[1700] = std::numeric_limits<float>::infinity();
  ASSERT_TRUE(DrawSharded(logits, cuts, 20, {.temperature = 0}, &token));
  EXPECT_EQ(token.id, -1);
  std::fill(logits.begin(), logits.end(), -std::numeric_limits<float>::infinity());
  ASSERT_TRUE(DrawSharded(logits, cuts, 20, {.top_k = 5}, &token));
  EXPECT_EQ(token.id, -1);
}

}  // namespace
}  // namespace qwenserve
