// A row's bits depend on its own inputs and position only. Everything here compares bits.
#include <cstring>

#include "tests/kernels/all_ops.h"
#include "tests/kernels/attention_harness.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/test_device.h"

namespace qwenserve {
namespace {

class InvarianceTest : public DeviceTest {
 protected:
  // Rows 0 .. n - 1 of x alone, and among the others of a batch of each of the sizes.
  void ExpectTheSameAlone(const LinearWeight& alone, Backend& other, const LinearWeight& batched,
                          const std::vector<float>& x, const std::vector<float>& bias,
                          const std::vector<int64_t>& sizes) {
    const int64_t in = alone.in_features, out = alone.out_features;
    std::vector<float> single;
    HostOps others(other);
    for (int64_t rows : sizes) {
      if (rows * in * out > MaxTestWork()) continue;
      while (static_cast<int64_t>(single.size()) < rows * out) {
        const int64_t r = static_cast<int64_t>(single.size()) / out;
        const std::vector<float> row = ops_->Linear(
            std::vector<float>(x.begin() + r * in, x.begin() + (r + 1) * in), 1, alone, bias);
        single.insert(single.end(), row.begin(), row.end());
      }
      const std::vector<float> batch =
          others.Linear(std::vector<float>(x.begin(), x.begin() + rows * in), rows, batched, bias);
      ASSERT_TRUE(SameBits(single.data(), batch.data(), rows * out)) << rows << " rows";
    }
  }

  Random random_{7};
};

QS_INSTANTIATE_FOR_TEST_DEVICES(InvarianceTest);

TEST_P(InvarianceTest, ALinearRowAloneEqualsItselfInAnyBatch) {
  std::unique_ptr<Backend> other = Another(3);
  std::vector<int64_t> sizes;
  for (int64_t rows = 1; rows <= 37; ++rows) sizes.push_back(rows);
  for (int64_t rows : {64, 65, 129, 250}) sizes.push_back(rows);
  for (DType dtype : WeightTypes(*device_)) {
    // Depth beyond two depth blocks, an incomplete last panel, panels for groups of 4, 2 and 1.
    const HostMatrix matrix(random_, dtype, 117, 600);
    ExpectTheSameAlone(matrix.Pack(*device_), *other, matrix.Pack(*other),
                       random_.Normals(250 * 600), random_.Normals(117), sizes);
  }
}

// The inputs of wide models are used block by block: 11008 in a 7B model.
TEST_P(InvarianceTest, ADeepLinearRowAloneEqualsItselfInAnyBatch) {
  constexpr int64_t kDepth = 11009, kOut = 49;
  std::unique_ptr<Backend> other = Another(1);
  const std::vector<float> x = random_.Normals(30 * kDepth), bias = random_.Normals(kOut);
  for (DType dtype : WeightTypes(*device_)) {
    const HostMatrix matrix(random_, dtype, kOut, kDepth);
    ExpectTheSameAlone(matrix.Pack(*device_), *other, matrix.Pack(*other), x, bias,
                       {2, 12, 13, 30});
  }
}

TEST_P(InvarianceTest, AQuantisedLinearRowAloneEqualsItselfInAnyBatch) {
  std::unique_ptr<Backend> other = Another(3);
  for (const QuantizedShape& shape : QuantizedShapes(random_, 75, 500, 64)) {
    const RandomQuantizedRows source(random_, shape);
    ExpectTheSameAlone(*device_->PackQuantized(shape, source), *other,
                       *other->PackQuantized(shape, source), random_.Normals(130 * 500),
                       random_.Normals(75), {2, 5, 8, 9, 16, 17, 25, 33, 70, 130});
  }
}

TEST_P(InvarianceTest, AFusedRowAloneEqualsItselfInAnyBatch) {
  const HostMatrix matrix(random_, DType::kBf16, 2 * 64, 256);
  const LinearWeight weight = matrix.Pack(*device_);
  const std::vector<float> x = random_.Normals(70 * 256);
  for (int64_t rows : {2, 9, 17, 40, 70}) {
    if (rows * 256 * 128 > MaxTestWork()) continue;
    const std::vector<float> batch =
        ops_->LinearSwiGlu(std::vector<float>(x.begin(), x.begin() + rows * 256), rows, weight);
    for (int64_t r = 0; r < rows; ++r) {
      const std::vector<float> alone = ops_->LinearSwiGlu(
          std::vector<float>(x.begin() + r * 256, x.begin() + (r + 1) * 256), 1, weight);
      ASSERT_TRUE(SameBits(alone.data(), &batch[r * 64], 64)) << r << " of " << rows;
    }
  }
}

// Of threads on a CPU, in any order of a block's threads on an emulated GPU.
TEST_P(InvarianceTest, AnyThreadsGiveTheSameBits) {
  const std::vector<float> expected = RunAllOps(*Another(1), MaxTestWork());
  for (int variant = 2; variant <= 4; ++variant) {
    EXPECT_TRUE(SameBits(RunAllOps(*Another(variant), MaxTestWork()), expected)) << variant;
  }
}

class AttentionInvarianceTest : public InvarianceTest {
 protected:
  // The rows' results, and the bytes that they leave in the cache.
  void ExpectTheSameHoweverCut(const AttentionProblem& problem, const std::vector<int>& cuts) {
    const int length = problem.lengths[0];
    std::unique_ptr<Backend> one = Another(1), other = Another(3);
    AttentionRunner whole(*one, problem);
    whole.Run({{0, 0, length}});
    AttentionRunner decode(*other, problem);
    for (int p = 0; p < length; ++p) decode.Run({{0, p, p + 1}});
    EXPECT_TRUE(SameBits(whole.result(), decode.result())) << KvFormatName(problem.kv_format);
    EXPECT_TRUE(whole.Cache() == decode.Cache()) << KvFormatName(problem.kv_format);
    AttentionRunner chunked(*other, problem);
    int begin = 0;
    for (int end : cuts) {
      chunked.Run({{0, begin, end}});
      begin = end;
    }
    EXPECT_TRUE(SameBits(whole.result(), chunked.result())) << KvFormatName(problem.kv_format);
    EXPECT_TRUE(whole.Cache() == chunked.Cache()) << KvFormatName(problem.kv_format);
  }
};

QS_INSTANTIATE_FOR_TEST_DEVICES(AttentionInvarianceTest);

TEST_P(AttentionInvarianceTest, PrefillWholeOrInChunksOrTokenByTokenIsTheSame) {
  uint32_t seed = 100;
  for (const HeadLayout& heads : HeadLayoutsOf(*device_)) {
    for (KvFormat format : KvFormatsOf(*device_, heads)) {
      if (!IsInvariant(format)) continue;
      // Cuts inside, at and across block borders.
      ExpectTheSameHoweverCut(AttentionProblem(++seed, heads, format, {75}),
                              {7, 16, 17, 48, 63, 75});
    }
  }
}

// Inside, at and across the borders of segments and of what is worked on at once.
TEST_P(AttentionInvarianceTest, SoItIsAcrossSegments) {
  uint32_t seed = 120;
  for (int layout : {2, 3}) {
    const HeadLayout heads = TestHeadLayouts()[layout];
    for (KvFormat format : KvFormatsOf(*device_, heads)) {
      if (!IsInvariant(format) || 530 * 530 * heads.query_width() / 16 > MaxTestWork()) continue;
      ExpectTheSameHoweverCut(AttentionProblem(++seed, heads, format, {530}),
                              {64, 250, 256, 257, 300, 384, 511, 513, 530});
    }
  }
}

// The parity format takes its scale from all tokens of a step, as the original does: a later
// version that chunked its prompts would be another format.
TEST_P(AttentionInvarianceTest, TheQwenFormatDependsOnTheCut) {
  const HeadLayout heads = TestHeadLayouts()[0];
  if (!device_->SupportsKv(KvFormat::kQwenInt8, heads).ok()) GTEST_SKIP() << "no such cache";
  const AttentionProblem problem(150, heads, KvFormat::kQwenInt8, {40});
  AttentionRunner whole(*device_, problem), cut(*device_, problem);
  whole.Run({{0, 0, 40}});
  cut.Run({{0, 0, 20}});
  cut.Run({{0, 20, 40}});
  EXPECT_FALSE(whole.Cache() == cut.Cache());
}

TEST_P(AttentionInvarianceTest, RandomRaggedBatchesChangeNothing) {
  for (uint32_t seed = 200; seed < 208; ++seed) {
    const std::vector<HeadLayout> layouts = HeadLayoutsOf(*device_);
    // All but the one that may not be cut.
    const KvFormat format = static_cast<KvFormat>(seed % 3);
    if (!device_->SupportsKv(format, layouts[seed % layouts.size()]).ok()) continue;
    const AttentionProblem problem(seed, layouts[seed % layouts.size()], format,
                                   {50, 1, 33, 64, 17, 90});
    const AttentionResult whole = RunWhole(*Another(1), problem);
    std::unique_ptr<Backend> other = Another(3);
    AttentionRunner runner(*other, problem);
    std::vector<int> done(problem.lengths.size());
    while (true) {
      // Some sequences, in any order, each with a chunk of any length.
      std::vector<int> order;
      for (size_t s = 0; s < done.size(); ++s) {
        if (done[s] < problem.lengths[s]) order.push_back(static_cast<int>(s));
      }
      if (order.empty()) break;
      random_.Shuffle(order);
      order.resize(1 + random_.Below(static_cast<uint32_t>(order.size())));
      Step step;
      for (int s : order) {
        const int left = problem.lengths[s] - done[s];
        const int most = random_.Below(3) == 0 ? 40 : 2;
        const int count = std::min<int>(left, 1 + static_cast<int>(random_.Below(most)));
        step.push_back({s, done[s], done[s] + count});
        done[s] += count;
      }
      runner.Run(step);
    }
    EXPECT_TRUE(SameBits(whole, runner.result())) << "seed " << seed;
  }
}

TEST_P(AttentionInvarianceTest, ARowThatIsNoNumberStaysAlone) {
  AttentionProblem problem(300, TestHeadLayouts()[0], KvFormat::kBf16, {20, 30});
  const AttentionResult clean = RunWhole(*device_, problem);
  for (float& v : problem.qkv[0]) v = std::nanf("");
  const AttentionResult poisoned = RunWhole(*device_, problem);
  EXPECT_TRUE(std::isnan(poisoned.out[0][0]));
  EXPECT_TRUE(SameBits(clean.out[1], poisoned.out[1]));
}

}  // namespace
}  // namespace qwenserve
