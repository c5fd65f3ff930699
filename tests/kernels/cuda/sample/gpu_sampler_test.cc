// Sampling by the kernels gives the CPU's tokens and log-probabilities, bit for bit.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cuda/runtime/simt_faults.h"
#include "tests/kernels/cuda/sample/gpu_sampler_harness.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A row with everything that it points to.
struct RandomRow {
  SampleRow row;
  std::vector<int32_t> context, banned;
  std::vector<LogitBias> bias;
  std::vector<uint32_t> allowed;

  void Point() {
    row.context_ids = context;
    row.banned_ids = banned;
    row.logit_bias = bias;
    row.allowed_ids = allowed.empty() ? nullptr : allowed.data();
  }
};

template <typename T>
T Pick(Random& random, std::initializer_list<T> choices) {
  return choices.begin()[random.Below(static_cast<uint32_t>(choices.size()))];
}

std::vector<float> RandomLogits(Random& random, int64_t vocab) {
  std::vector<float> logits = random.Normals(vocab, Pick(random, {0.0f, 0.5f, 2.0f, 6.0f, 60.0f}));
  const uint32_t kind = random.Below(8);
  for (float& logit : logits) {
    if (kind == 0) logit = std::round(logit);  // many equals, zeros of both signs among them
    if (kind == 1 && random.Below(3) == 0) logit = -kInfinity;
    if (kind == 2 && random.Below(10) != 0) logit = -kInfinity;
    if (kind == 3) logit -= 1e4f;
  }
  const uint32_t flaw = random.Below(40);
  float& some = logits[random.Below(static_cast<uint32_t>(vocab))];
  if (flaw == 0) some = std::nanf("");
  if (flaw == 1) some = kInfinity;
  if (flaw == 2) logits.assign(logits.size(), -kInfinity);
  if (flaw == 3) some = 3e38f;
  return logits;
}

void AddRandomEdits(Random& random, int64_t vocab, RandomRow* r) {
  const auto bound = static_cast<uint32_t>(vocab);
  if (random.Below(2) == 0) {
    for (uint32_t i = random.Below(50); i > 0; --i) {
      r->context.push_back(static_cast<int32_t>(random.Below(bound + 2)));
    }
    r->row.num_prompt_ids = static_cast<int64_t>(r->context.size()) / 3;
    r->row.repetition_penalty = Pick(random, {1.0f, 1.3f, 0.8f});
    r->row.presence_penalty = Pick(random, {0.0f, 0.7f});
    r->row.frequency_penalty = Pick(random, {0.0f, 0.3f, -0.2f});
  }
  if (random.Below(3) == 0) {
    for (uint32_t i = 0; i < std::min(bound, 5u); ++i) {
      r->bias.push_back({static_cast<int32_t>(i * (bound / std::min(bound, 5u))),
                         random.Normal(Pick(random, {1.0f, 50.0f}))});
    }
  }
  if (random.Below(3) == 0) {
    for (uint32_t i = random.Below(6); i > 0; --i) {
      r->banned.push_back(static_cast<int32_t>(random.Below(bound + 1)));
    }
  }
  if (random.Below(3) == 0) {
    r->allowed.resize((vocab + 31) / 32);
    for (uint32_t& word : r->allowed) word = random.Below(1u << 31) * 2 + random.Below(2);
  }
}

RandomRow MakeRandomRow(Random& random, int64_t vocab) {
  RandomRow r;
  const auto bound = static_cast<uint32_t>(vocab);
  r.row.temperature = Pick(random, {0.0f, 0.01f, 0.3f, 0.7f, 1.0f, 1.7f, 50.0f});
  r.row.top_k = Pick(random, {0, 0, 1, 5, 20, 300, 512, 513, 700, 5000});
  r.row.top_p = Pick(random, {1.0f, 1.0f, 0.95f, 0.8f, 0.5f, 0.999f, 1e-6f, 0.0f});
  r.row.min_p = Pick(random, {0.0f, 0.0f, 0.05f, 0.4f});
  r.row.seed = random.Below(~0u) * uint64_t{0x100000001};
  r.row.position = random.Below(100000);
  r.row.sample_index = static_cast<int32_t>(random.Below(3));
  r.row.num_logprobs = Pick(random, {-1, -1, 0, 1, 5, 20});
  if (random.Below(8) == 0) {
    r.row.given_id = static_cast<int32_t>(random.Below(bound));
    r.row.num_logprobs = Pick(random, {0, 3, 20});
  }
  if (random.Below(2) == 0) AddRandomEdits(random, vocab, &r);
  return r;
}

class GpuSamplerTest : public testing::Test {
 protected:
  // `count` rows of every kind in one call.
  void Compare(GpuSamplerHarness& gpu, int64_t vocab, int count) {
    const int64_t stride = vocab + random_.Below(70);
    std::vector<float> logits;
    std::vector<RandomRow> random_rows(count);
    std::vector<SampleRow> rows;
    for (RandomRow& r : random_rows) {
      r = MakeRandomRow(random_, vocab);
      r.Point();
      rows.push_back(r.row);
      const std::vector<float> own = RandomLogits(random_, vocab);
      logits.insert(logits.end(), own.begin(), own.end());
      logits.resize(rows.size() * static_cast<size_t>(stride), kInfinity);  // padding
    }
    const std::vector<SampledToken> actual = gpu.Sample(logits, stride, vocab, rows);
    std::vector<SampledToken> expected(rows.size());
    cpu_->Sample(logits.data(), stride, vocab, rows, nullptr, expected.data());
    for (int i = 0; i < count; ++i) {
      const SampleRow& row = rows[i];
      SCOPED_TRACE(testing::Message()
                   << "vocab " << vocab << " row " << i << " temperature " << row.temperature
                   << " top_k " << row.top_k << " top_p " << row.top_p << " min_p " << row.min_p
                   << " logprobs " << row.num_logprobs << " edits " << EditsLogits(row));
      ExpectSame(actual[i], expected[i]);
      if (HasFailure()) return;
      with_answer_ += actual[i].id >= 0;
      ++compared_;
    }
  }

  std::unique_ptr<Backend> cpu_ = Cpu("auto", 1);
  Random random_{91};
  int compared_ = 0, with_answer_ = 0;
};

TEST_F(GpuSamplerTest, ThousandsOfRowsHaveTheBitsOfTheCpu) {
  GpuSamplerHarness gpu(Emulation(7));
  for (int64_t vocab : {1, 2, 31, 33, 64, 500, 1100}) Compare(gpu, vocab, 300);
  for (int64_t vocab : {4096, 4097, 6000, 9001}) Compare(gpu, vocab, 60);
  EXPECT_GT(with_answer_, compared_ * 8 / 10);
  EXPECT_LT(with_answer_, compared_);
}

TEST_F(GpuSamplerTest, ALargeVocabularyHasTheBitsOfTheCpu) {
  GpuSamplerHarness gpu(Emulation(8));
  Compare(gpu, 151936, 12);
}

// So many ids with the same logit that none of the short ways will do.
TEST_F(GpuSamplerTest, ManyEqualLogitsAreCutInTheOrderOfTheirIds) {
  constexpr int64_t kVocab = 9001;
  GpuSamplerHarness gpu(Emulation(9));
  std::vector<SampleRow> rows;
  std::vector<float> logits;
  for (const float scale : {0.0f, 0.3f, 0.8f, 2.0f}) {
    for (const int32_t top_k : {0, 600, 2048, 2049, 5000}) {
      for (const float top_p : {1.0f, 0.9f, 0.3f}) {
        SampleRow row = {.temperature = 1.5f, .top_k = top_k, .top_p = top_p};
        row.seed = rows.size();
        row.num_logprobs = rows.size() % 4 == 0 ? 20 : -1;
        rows.push_back(row);
        for (float logit : random_.Normals(kVocab, scale)) logits.push_back(std::round(logit));
      }
    }
  }
  const std::vector<SampledToken> actual = gpu.Sample(logits, kVocab, kVocab, rows);
  std::vector<SampledToken> expected(rows.size());
  cpu_->Sample(logits.data(), kVocab, kVocab, rows, nullptr, expected.data());
  for (size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(testing::Message()
                 << i << ": top_k " << rows[i].top_k << " top_p " << rows[i].top_p);
    ExpectSame(actual[i], expected[i]);
  }
}

// The cut lies within the lower of two steps, where thousands are equal: many draws, since those of
// a wrong cut are the same more often than not.
TEST_F(GpuSamplerTest, TheCutAmongEqualsCountsWhatIsAbove) {
  GpuSamplerHarness gpu(Emulation(10));
  for (const bool nucleus : {true, false}) {
    const int64_t above = nucleus ? 500 : 2500, vocab = nucleus ? 3000 : 6000;
    std::vector<float> one(vocab, 0.0f), logits;
    for (int64_t i = 0; i < above; ++i) one[i * vocab / above] = 1.0f;
    std::vector<SampleRow> rows(60);
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i] = {.top_k = nucleus ? 0 : 4000, .top_p = nucleus ? 0.6f : 1.0f, .seed = i};
      logits.insert(logits.end(), one.begin(), one.end());
    }
    const std::vector<SampledToken> actual = gpu.Sample(logits, vocab, vocab, rows);
    std::vector<SampledToken> expected(rows.size());
    cpu_->Sample(logits.data(), vocab, vocab, rows, nullptr, expected.data());
    for (size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(actual[i].id, expected[i].id) << i;
  }
}

#ifdef QS_WITH_CUDA
TEST_F(GpuSamplerTest, AGpuHasTheBitsOfTheCpu) {
  const SamplingKernels kernels = on_cuda::GetSamplingKernels();
  auto device = MakeCudaDevice(0);
  if (absl::IsNotFound(device.status())) GTEST_SKIP() << device.status().message();
  ASSERT_TRUE(device.ok()) << device.status();
  GpuSamplerHarness gpu({*std::move(device), kernels});
  for (int64_t vocab : {1, 2, 31, 33, 64, 500, 1100, 4097, 9001}) Compare(gpu, vocab, 500);
  for (int i = 0; i < 5; ++i) Compare(gpu, 151936, 40);
}
#endif

// What one row gives does not depend on the rows beside it, nor on the order of blocks and threads.
TEST_F(GpuSamplerTest, ARowAloneIsTheRowInABatch) {
  constexpr int64_t kVocab = 5000;
  constexpr int kRows = 40;
  GpuSamplerHarness together(Emulation(3)), apart(Emulation(1234));
  std::vector<float> logits;
  std::vector<RandomRow> random_rows(kRows);
  std::vector<SampleRow> rows;
  for (RandomRow& r : random_rows) {
    r = MakeRandomRow(random_, kVocab);
    r.Point();
    rows.push_back(r.row);
    const std::vector<float> own = RandomLogits(random_, kVocab);
    logits.insert(logits.end(), own.begin(), own.end());
  }
  const std::vector<SampledToken> tokens = together.Sample(logits, kVocab, kVocab, rows);
  for (int i = 0; i < kRows; ++i) {
    SCOPED_TRACE(i);
    const auto begin = logits.begin() + i * kVocab;
    ExpectSame(apart.Draw(std::vector<float>(begin, begin + kVocab), rows[i]), tokens[i]);
  }
}

TEST_F(GpuSamplerTest, FewKernelsForPlainRows) {
  auto faults = std::make_shared<SimtFaults>();
  GpuSamplerHarness gpu({MakeSimtDevice(1, faults), on_simt::GetSamplingKernels()});
  const std::vector<float> logits = random_.Normals(300);
  const auto launches = [&](SampleRow row) {
    const int64_t before = faults->launches();
    gpu.Draw(logits, row);
    return faults->launches() - before;
  };
  EXPECT_EQ(launches({.temperature = 0}), 2);
  EXPECT_EQ(launches({.temperature = 0.7f, .min_p = 0.1f}), 3);
  EXPECT_EQ(launches({.temperature = 0.7f, .top_k = 20, .top_p = 0.8f}), 4);
  const std::vector<int32_t> context = {1, 2, 1};
  SampleRow row = {.top_k = 20, .top_p = 0.8f, .repetition_penalty = 1.05f};
  row.context_ids = context;
  EXPECT_EQ(launches(row), 4);
}

// The id that the step before drew is the last of the context, where the host doesn't know it yet.
TEST_F(GpuSamplerTest, TheLastIdComesFromTheDevice) {
  constexpr int64_t kVocab = 40;
  GpuSamplerHarness gpu;
  const Buffer last = gpu.Allocate(sizeof(int32_t));
  for (int i = 0; i < 300; ++i) {
    const std::vector<float> logits = random_.Normals(kVocab, 2.0f);
    RandomRow r = MakeRandomRow(random_, kVocab);
    r.row.given_id = -1;
    r.row.repetition_penalty = Pick(random_, {1.0f, 1.5f});
    r.row.presence_penalty = 0.5f;
    r.row.frequency_penalty = Pick(random_, {0.0f, 0.3f});
    r.context = {3, 3, 7, static_cast<int32_t>(random_.Below(kVocab))};
    r.row.num_prompt_ids = random_.Below(5);
    r.row.num_logprobs = Pick(random_, {-1, 4});
    // -1: the step before drew none.
    const int32_t id = i % 10 == 0 ? -1 : static_cast<int32_t>(random_.Below(kVocab));
    r.Point();
    gpu.device().CopyToDevice(last.data(), &id, sizeof(id), GpuStream::kCompute);
    r.row.last_id = last.as<int32_t>();
    const SampledToken actual = gpu.Draw(logits, r.row);
    if (id >= 0) r.context.push_back(id);
    r.row.last_id = nullptr;
    r.Point();
    std::vector<float> copy = logits;
    SampledToken expected;
    cpu_->Sample(copy.data(), kVocab, kVocab, {&r.row, 1}, nullptr, &expected);
    SCOPED_TRACE(i);
    ExpectSame(actual, expected);
  }
}

TEST_F(GpuSamplerTest, SeveralCallsMayBeUnderWay) {
  auto faults = std::make_shared<SimtFaults>();
  GpuSamplerHarness gpu({MakeSimtDevice(1, faults), on_simt::GetSamplingKernels()});
  faults->Hang();
  std::vector<std::vector<SampledToken>> tokens(5, std::vector<SampledToken>(3));
  std::vector<std::vector<float>> logits;
  const std::vector<SampleRow> rows = {
      {.temperature = 0}, {.seed = 3, .num_logprobs = 2}, {.top_p = 0.5f, .seed = 9}};
  for (auto& call : tokens) {
    logits.push_back(random_.Normals(3 * 50, 2.0f));
    gpu.Issue(logits.back(), 50, 50, rows, call.data());
  }
  EXPECT_TRUE(gpu.sampler().Deliver().ok());
  for (const auto& call : tokens) EXPECT_EQ(call[0].id, -1);
  faults->Resume();
  gpu.Wait();
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::vector<SampledToken> expected(3);
    cpu_->Sample(logits[i].data(), 50, 50, rows, nullptr, expected.data());
    for (int r = 0; r < 3; ++r) ExpectSame(tokens[i][r], expected[r]);
  }
}

TEST_F(GpuSamplerTest, WhatRowsPointToMayGoAtOnce) {
  GpuSamplerHarness gpu;
  SampledToken token;
  auto bias = std::make_unique<std::vector<LogitBias>>(1, LogitBias{2, 50.0f});
  SampleRow row = {.temperature = 0};
  row.logit_bias = *bias;
  gpu.Issue({0, 1, 2, 3}, 4, 4, {&row, 1}, &token);
  (*bias)[0] = {1, 90.0f};
  bias.reset();
  gpu.Wait();
  EXPECT_EQ(token.id, 2);
}

TEST_F(GpuSamplerTest, WithoutMemoryACallFailsAndTheNextMaySucceed) {
  auto faults = std::make_shared<SimtFaults>();
  GpuSamplerHarness gpu({MakeSimtDevice(1, faults), on_simt::GetSamplingKernels()});
  const std::vector<float> logits = {1, 3, 2};
  const SampleRow row = {.temperature = 0};
  SampledToken token{.id = 77};
  faults->SetTotalPinned(1000);
  gpu.Issue(logits, 3, 3, {&row, 1}, &token);
  EXPECT_EQ(gpu.sampler().Deliver().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(token.id, -1);
  faults->SetTotalPinned(size_t{1} << 30);
  EXPECT_EQ(gpu.Draw(logits, row).id, 1);
}

TEST_F(GpuSamplerTest, AnErrorOfTheDeviceComesInsteadOfTokens) {
  auto faults = std::make_shared<SimtFaults>();
  GpuSamplerHarness gpu({MakeSimtDevice(1, faults), on_simt::GetSamplingKernels()});
  faults->FailAfter(1, absl::UnavailableError("an illegal memory access"));
  const SampleRow row = {.num_logprobs = 3};
  SampledToken token;
  gpu.Issue({1, 2, 3}, 3, 3, {&row, 1}, &token);
  EXPECT_EQ(gpu.sampler().Deliver().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(token.id, -1);
}

}  // namespace
}  // namespace qwenserve
