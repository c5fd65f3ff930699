// What NormRopeStoreKv writes: queries, keys and values.
#include <cmath>

#include "tests/kernels/cuda/attention/gpu_attention_harness.h"

namespace qwenserve {
namespace {

class NormRopeStoreTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto gpu = MakeGpuUnderTest(GetParam());
    if (absl::IsNotFound(gpu.status())) GTEST_SKIP() << gpu.status().message();
    ASSERT_TRUE(gpu.ok()) << gpu.status();
    gpu_ = *std::move(gpu);
  }
  GpuUnderTest gpu_;
};

INSTANTIATE_TEST_SUITE_P(Devices, NormRopeStoreTest, testing::ValuesIn(kGpusUnderTest),
                         [](const auto& info) { return info.param; });

// A head after norm, rotation and scale, in double.
std::vector<double> Rotated(const float* head, int dim, const float* norm, const float* cos_sin,
                            double scale) {
  std::vector<double> x(head, head + dim), y(dim);
  if (norm != nullptr) {
    double squares = 0;
    for (double v : x) squares += v * v;
    for (int d = 0; d < dim; ++d) x[d] *= norm[d] / std::sqrt(squares / dim + 1e-6f);
  }
  for (int i = 0; i < dim / 2; ++i) {
    const double cos = cos_sin[2 * i], sin = cos_sin[2 * i + 1];
    y[i] = (x[i] * cos - x[i + dim / 2] * sin) * scale;
    y[i + dim / 2] = (x[i + dim / 2] * cos + x[i] * sin) * scale;
  }
  return y;
}

TEST_P(NormRopeStoreTest, QueriesAndKeysAreNormalisedAndRotated) {
  uint32_t seed = 0;
  for (int dim : {16, 64, 96, 128}) {
    for (bool norm : {false, true}) {
      const HeadLayout heads = {
          .num_query_heads = 3, .num_kv_heads = 2, .head_dim = dim, .queries_per_kv = 2};
      AttentionProblem problem(++seed, heads, KvFormat::kBf16, {20, 5, 33});
      problem.norm = norm;
      GpuAttentionRunner runner(gpu_, problem);
      runner.Run(WholeStep(problem));
      // The norm's sum, then five operations.
      const double relative = (dim / 32.0 + 16) * kFloatRounding;
      for (int s = 0; s < 3; ++s) {
        for (int p = 0; p < problem.lengths[s]; ++p) {
          const float* row = &problem.qkv[s][p * heads.qkv_width()];
          const float* cos_sin = &problem.cos_sin[s % 2][p * dim];
          for (int h = 0; h < 5; ++h) {
            const bool key = h >= 3;
            const auto& weight = key ? problem.k_norm : problem.q_norm;
            const std::vector<double> expected =
                Rotated(row + h * dim, dim, norm ? weight.data() : nullptr, cos_sin,
                        key ? 1.0 : problem.scales[p]);
            for (int d = 0; d < dim; ++d) {
              const int i = d % (dim / 2);
              const double pair = std::hypot(expected[i], expected[i + dim / 2]);
              const float actual =
                  key ? runner.Cached(s, p, h - 3, d, false)
                      : runner.result().queries[s][p * heads.query_width() + h * dim + d];
              const double bf16 = key ? kBf16Rounding * 1.01 * std::fabs(expected[d]) : 0;
              ASSERT_NEAR(actual, expected[d], relative * pair + bf16) << dim << " head " << h;
            }
          }
          for (int h = 0; h < 2; ++h) {
            for (int d = 0; d < dim; ++d) {
              const float value = row[heads.query_width() + heads.kv_width() + h * dim + d];
              ASSERT_EQ(runner.Cached(s, p, h, d, true), Bf16ToFloat(FloatToBf16(value)));
            }
          }
        }
      }
    }
  }
}

// Codes and scales are exactly those of kernels/README.md.
TEST_P(NormRopeStoreTest, Int8IsTheRuleOfTheCpu) {
  const HeadLayout heads = {
      .num_query_heads = 1, .num_kv_heads = 1, .head_dim = 32, .queries_per_kv = 1};
  AttentionProblem problem(3, heads, KvFormat::kInt8, {60});
  KeepAsIs(problem);
  const std::vector<std::vector<float>> special = {
      {-127, 2.5f, 3.5f, -0.25f}, {0, 0, 1e-38f, 0}, {0, 0, 254e30f, -1e30f}, {0, 0, 0, 0}};
  for (size_t i = 0; i < special.size(); ++i) {
    float* key = &problem.qkv[0][i * heads.qkv_width() + heads.query_width()];
    std::fill(key, key + 64, 0.0f);
    std::copy(special[i].begin(), special[i].end(), key);
    std::copy(special[i].begin(), special[i].end(), key + 32);
  }
  GpuAttentionRunner runner(gpu_, problem);
  runner.Run(WholeStep(problem));
  for (int p = 0; p < 60; ++p) {
    for (bool value : {false, true}) {
      const float* x = &problem.qkv[0][p * heads.qkv_width() + (value ? 64 : 32)];
      float amax = 0;
      for (int d = 0; d < 32; ++d) amax = std::max(amax, std::fabs(x[d]));
      for (int d = 0; d < 32; ++d) {
        const float expected =
            amax < 1e-30f ? 0.0f : std::nearbyint(x[d] * (127.0f / amax)) * (amax / 127.0f);
        ASSERT_EQ(runner.Cached(0, p, 0, d, value), expected) << p << " " << d;
      }
    }
  }
}

// Nothing but the rows' own slots changes.
TEST_P(NormRopeStoreTest, WritesNothingElse) {
  const HeadLayout heads = {
      .num_query_heads = 2, .num_kv_heads = 2, .head_dim = 64, .queries_per_kv = 1};
  for (KvFormat format : {KvFormat::kBf16, KvFormat::kInt8}) {
    AttentionProblem problem(4, heads, format, {20, 40});
    GpuAttentionRunner runner(gpu_, problem);
    runner.Run({{1, 0, 37}, {0, 0, 3}});
    runner.Run({{0, 3, 4}, {1, 37, 38}}, true, 2);
    const size_t row_bytes = format == KvFormat::kBf16 ? 128 : 64 + 4;
    const size_t stored = (4 + 38) * 2 * 2 * row_bytes;
    const auto untouched =
        std::count(runner.cache().begin(), runner.cache().end(), static_cast<char>(0xff));
    // Some of what is stored may be that byte, too.
    EXPECT_GE(static_cast<size_t>(untouched), runner.cache().size() - stored);
    EXPECT_LE(static_cast<size_t>(untouched), runner.cache().size() - stored + stored / 20);
  }
}

}  // namespace
}  // namespace qwenserve
