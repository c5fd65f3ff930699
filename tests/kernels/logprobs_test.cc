// Bias, banned ids and log-probabilities, and that no bit depends on threads or on the batch.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/test_device.h"

namespace qwenserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class LogprobsTest : public DeviceTest {
 protected:
  static SampledToken Draw(Backend& backend, const std::vector<float>& logits,
                           const SampleRow& row) {
    const auto size = static_cast<int64_t>(logits.size());
    return HostOps(backend).Sample(logits, size, size, {&row, 1})[0];
  }
  SampledToken Draw(const std::vector<float>& logits, const SampleRow& row) {
    return Draw(*device_, logits, row);
  }
  // The same token and bits.
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

  ReferenceBackend reference_;
  Random random_{17};
};

QS_INSTANTIATE_FOR_TEST_DEVICES(LogprobsTest);

TEST_P(LogprobsTest, AreTheSoftmaxOfTheLogitsAsTheyCome) {
  for (int64_t size : {1, 2, 7, 63, 64, 65, 320, 4095, 4097, 20001}) {
    const std::vector<float> logits = random_.Normals(size, 4.0f);
    SampleRow row = {.temperature = 0.7f, .top_k = 5, .num_logprobs = 20};
    row.seed = static_cast<uint64_t>(size);
    const std::vector<int32_t> context = {0, 0, static_cast<int32_t>(size - 1)};
    row.repetition_penalty = 1.3f;
    row.frequency_penalty = 0.5f;
    row.context_ids = context;
    const SampledToken expected = Draw(reference_, logits, row), actual = Draw(logits, row);
    EXPECT_EQ(actual.id, expected.id);
    // exp is within 2e-7, and the logarithm of a sum of them then too; the rest is one rounding.
    EXPECT_NEAR(actual.logprob, expected.logprob, 1e-6 + 2e-7 * std::abs(expected.logprob));
    ASSERT_EQ(actual.top.size(), std::min<size_t>(20, size));
    double mass = 0;
    for (size_t i = 0; i < actual.top.size(); ++i) {
      EXPECT_EQ(actual.top[i].id, expected.top[i].id);
      EXPECT_NEAR(actual.top[i].logprob, expected.top[i].logprob,
                  1e-6 + 2e-7 * std::abs(expected.top[i].logprob));
      mass += std::exp(actual.top[i].logprob);
    }
    EXPECT_LE(mass, 1 + 1e-5);
    if (size <= 20) {
      EXPECT_NEAR(mass, 1, 1e-5);
    }
  }
}

TEST_P(LogprobsTest, KnownValues) {
  // Four equal ids: log(1/4). Ids of -infinity have no mass and are no alternative.
  const SampledToken token = Draw({2, 2, -kInfinity, 2, 2}, {.temperature = 0, .num_logprobs = 9});
  EXPECT_EQ(token.id, 0);
  EXPECT_FLOAT_EQ(token.logprob, -1.3862944f);
  ASSERT_EQ(token.top.size(), 4);
  EXPECT_EQ(token.top[2].id, 3);
  EXPECT_EQ(token.top[2].logprob, token.logprob);
  EXPECT_EQ(Draw({5}, {.num_logprobs = 0}).logprob, 0.0f);
  EXPECT_TRUE(Draw({5}, {.num_logprobs = 0}).top.empty());
}

TEST_P(LogprobsTest, OfAGivenTokenNothingIsDrawn) {
  const std::vector<float> logits = {1, 4, -kInfinity, 3};
  SampledToken token = Draw(logits, {.num_logprobs = 1, .given_id = 3});
  EXPECT_EQ(token.id, 3);
  EXPECT_NEAR(token.logprob, -1.3490122, 1e-6);  // 3 - log(e + e^4 + e^3)
  ASSERT_EQ(token.top.size(), 1);
  EXPECT_EQ(token.top[0].id, 1);
  EXPECT_EQ(Draw(logits, {.num_logprobs = 0, .given_id = 2}).logprob, -kInfinity);
  EXPECT_EQ(Draw({1, std::nanf("")}, {.num_logprobs = 0, .given_id = 0}).id, -1);
}

TEST_P(LogprobsTest, NeedUsableLogitsEverywhere) {
  const uint32_t first = 1;
  const std::vector<float> logits = {1, std::nanf("")};
  EXPECT_EQ(Draw(logits, {.allowed_ids = &first}).id, 0);
  EXPECT_EQ(Draw(logits, {.num_logprobs = 0, .allowed_ids = &first}).id, -1);
  EXPECT_TRUE(Draw({1, kInfinity}, {.num_logprobs = 3}).top.empty());
}

TEST_P(LogprobsTest, BiasIsAddedAndLeavesTheLogprobsAlone) {
  const std::vector<float> logits = {1, 2, 3};
  const std::vector<LogitBias> bias = {{0, 5.0f}, {2, -100.0f}};
  const SampledToken token =
      Draw(logits, {.temperature = 0, .num_logprobs = 1, .logit_bias = bias});
  EXPECT_EQ(token.id, 0);
  EXPECT_NEAR(token.logprob, -2.4076059, 1e-6);  // of 1 among 1, 2, 3
  EXPECT_EQ(token.top[0].id, 2);
  // Before the penalty: (1 + 5) / 4 < 2.
  SampleRow row = {.temperature = 0, .repetition_penalty = 4.0f, .logit_bias = bias};
  const std::vector<int32_t> context = {0};
  row.context_ids = context;
  EXPECT_EQ(Draw(logits, row).id, 1);
}

TEST_P(LogprobsTest, BannedIdsAreNeverDrawn) {
  const std::vector<float> logits = {9, 1, 8, 1};
  const std::vector<int32_t> banned = {0, 2, 0};
  SampleRow row = {.temperature = 2.0f, .banned_ids = banned};
  for (row.seed = 0; row.seed < 200; ++row.seed) EXPECT_EQ(Draw(logits, row).id % 2, 1);
  const std::vector<int32_t> all = {0, 1, 2, 3};
  row.banned_ids = all;
  EXPECT_EQ(Draw(logits, row).id, -1);
  // Ids beyond the vocabulary, which a checkpoint may name, are no matter.
  const std::vector<int32_t> beyond = {7, -1};
  row.banned_ids = beyond;
  EXPECT_GE(Draw(logits, row).id, 0);
}

// Rows of every kind over a big vocabulary.
std::vector<SampleRow> Rows(absl::Span<const int32_t> context, absl::Span<const LogitBias> bias) {
  std::vector<SampleRow> rows;
  for (int i = 0; i < 24; ++i) {
    SampleRow row = {.temperature = i % 4 == 0 ? 0.0f : 0.5f * (i % 4)};
    row.top_k = i % 3 == 0 ? 20 : 0;
    row.top_p = i % 2 == 0 ? 1.0f : 0.9f;
    row.min_p = i % 5 == 0 ? 0.01f : 0.0f;
    row.num_logprobs = i % 3 - 1;
    row.seed = 5;
    row.position = i;
    if (i % 4 == 1) {
      row.repetition_penalty = 1.2f;
      row.frequency_penalty = 0.3f;
      row.context_ids = context;
      row.num_prompt_ids = 10;
    }
    if (i % 4 == 2) row.logit_bias = bias;
    if (i == 23) row = {.num_logprobs = 5, .given_id = 77};
    rows.push_back(row);
  }
  return rows;
}

TEST_P(LogprobsTest, NoBitDependsOnThreadsOrBatch) {
  const bool slow = MaxTestWork() < int64_t{1} << 30;
  const int64_t vocab = slow ? 5021 : 50021, stride = vocab + 27;
  std::vector<int32_t> context(300);
  for (int32_t& id : context)
    id = static_cast<int32_t>(random_.Below(static_cast<uint32_t>(vocab)));
  const std::vector<LogitBias> bias = {{17, 4.0f}, {4400, 9.0f}};
  const std::vector<SampleRow> rows = Rows(context, bias);
  const std::vector<float> logits = random_.Normals(stride * static_cast<int64_t>(rows.size()), 2);
  const auto row_of = [&](size_t i, int64_t count) {
    const auto begin = logits.begin() + static_cast<int64_t>(i) * stride;
    return std::vector<float>(begin, begin + count);
  };
  std::vector<SampledToken> expected;
  for (size_t i = 0; i < rows.size(); ++i) {
    // On a GPU, too: the same bits as on any CPU.
    expected.push_back(Draw(*Cpu("portable"), row_of(i, vocab), rows[i]));
    EXPECT_GE(expected.back().id, 0);
  }
  for (int variant : {1, 2, 3, 5}) {
    if (slow && variant > 2) break;
    const std::unique_ptr<Backend> backend = Another(variant);
    HostOps ops(*backend);
    const std::vector<SampledToken> together = ops.Sample(logits, stride, vocab, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      SCOPED_TRACE(i);
      ExpectSame(together[i], expected[i]);
      ExpectSame(ops.Sample(row_of(i, stride), stride, vocab, {&rows[i], 1})[0], expected[i]);
    }
  }
}

TEST_P(LogprobsTest, BitsAreWhatTheyWere) {
  std::vector<float> logits;
  for (int i = 0; i < 5000; ++i) logits.push_back(static_cast<float>(i * 7919 % 4999) * 0x1p-9f);
  const SampledToken token = Draw(logits, {.temperature = 0.8f, .seed = 3, .num_logprobs = 2});
  // Part of the contract with other replicas and versions: raise the numerics version on a change.
  EXPECT_EQ(token.id, 4862);
  EXPECT_EQ(std::bit_cast<uint32_t>(token.logprob), 3234797538u);
  EXPECT_EQ(std::bit_cast<uint32_t>(token.top[1].logprob), 3234314210u);
}

}  // namespace
}  // namespace qwenserve
