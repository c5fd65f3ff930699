#include "engine/quantize/gptq_solver.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "engine/quantize/hessian.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

using testing::HasSubstr;

struct Layer {
  int64_t out = 0;
  int64_t in = 0;
  std::vector<float> weights;
  std::vector<float> hessian;
};

// Inputs of a transformer are far from independent: a few directions carry most of them.
Layer MakeLayer(int64_t out, int64_t in, ThreadPool& pool, uint32_t seed = 11) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  constexpr int64_t kDirections = 24, kTokens = 600;
  std::vector<float> mixing(static_cast<size_t>(kDirections * in));
  for (float& value : mixing) value = normal(random);
  std::vector<float> x(static_cast<size_t>(kTokens * in));
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t i = 0; i < in; ++i) x[t * in + i] = 0.3f * normal(random);
    for (int64_t d = 0; d < kDirections; ++d) {
      const float strength = normal(random);
      for (int64_t i = 0; i < in; ++i) x[t * in + i] += strength * mixing[d * in + i];
    }
  }
  Layer layer{out, in, std::vector<float>(static_cast<size_t>(out * in)), {}};
  for (float& weight : layer.weights) weight = 0.05f * normal(random);
  Hessian hessian(in);
  hessian.Add(pool, x.data(), kTokens);
  layer.hessian = hessian.Take();
  return layer;
}

double ErrorOf(const Layer& layer, const QuantizedMatrix& matrix, ThreadPool& pool) {
  std::vector<float> difference(layer.weights.size());
  Dequantize(matrix, difference.data());
  for (size_t i = 0; i < difference.size(); ++i) difference[i] -= layer.weights[i];
  return OutputEnergy(pool, difference.data(), layer.out, layer.hessian.data(), layer.in) /
         OutputEnergy(pool, layer.weights.data(), layer.out, layer.hessian.data(), layer.in);
}

TEST(FloatToF16Test, InvertsF16ToFloatAndRoundsToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(value))));
    } else {
      ASSERT_EQ(FloatToF16(value), bits);
    }
  }
  EXPECT_EQ(FloatToF16(1.0f + 0x1p-11f), 0x3c00);             // a tie, down to even
  EXPECT_EQ(FloatToF16(1.0f + 0x3p-11f), 0x3c02);             // a tie, up to even
  EXPECT_EQ(FloatToF16(1.0f + 0x1p-11f + 0x1p-20f), 0x3c01);  // just above a tie
  EXPECT_EQ(FloatToF16(0x1p-25f), 0);                         // a tie of subnormals
  EXPECT_EQ(FloatToF16(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToF16(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToF16(-2.0f), 0xc000);
}

TEST(GptqTest, BeatsRoundingToNearest) {
  ThreadPool pool(2, {});
  const Layer layer = MakeLayer(48, 320, pool);  // groups of 128, 128 and 64
  for (int bits : {4, 8}) {
    for (int64_t group_size : {32, 64, 128}) {
      for (bool act_order : {false, true}) {
        GptqOptions options;
        options.bits = bits;
        options.group_size = group_size;
        options.act_order = act_order;
        const auto gptq = SolveGptq(pool, layer.weights, layer.out, layer.hessian, options);
        ASSERT_TRUE(gptq.ok()) << gptq.status();
        const auto nearest = RoundToNearest(layer.weights, layer.out, options);
        ASSERT_TRUE(nearest.ok());
        const double error = ErrorOf(layer, gptq->matrix, pool);
        EXPECT_LT(error, 0.6 * ErrorOf(layer, *nearest, pool)) << bits << " bits, " << group_size;
        EXPECT_NEAR(gptq->relative_error / error, 1.0, 1e-3);
        EXPECT_EQ(gptq->damping, 0.01);
      }
    }
  }
}

// The definition of GPTQ, column by column over the whole row, in double: after column j was
// rounded, the rest of the row moves by -error * [H^-1]_j,rest / [H^-1]_jj of the remaining
// problem.
TEST(GptqTest, RoundsAsTheDefinitionSays) {
  ThreadPool pool(2, {});
  const Layer layer = MakeLayer(3, 160, pool);
  GptqOptions options;
  options.group_size = 32;
  const auto solved = SolveGptq(pool, layer.weights, layer.out, layer.hessian, options);
  ASSERT_TRUE(solved.ok());
  const int64_t n = layer.in;
  // The inverse of the remaining problem by elimination: A_-j = A - A_:j A_j: / A_jj.
  std::vector<double> inverse(n * n);
  {
    std::vector<double> h(layer.hessian.begin(), layer.hessian.end());
    double mean = 0;
    for (int64_t i = 0; i < n; ++i) mean += h[i * (n + 1)] / n;
    for (int64_t i = 0; i < n; ++i) h[i * (n + 1)] += 0.01 * mean, inverse[i * (n + 1)] = 1;
    for (int64_t p = 0; p < n; ++p) {  // Gauss-Jordan; positive definite, so no pivoting
      const double pivot = h[p * (n + 1)];
      for (int64_t j = 0; j < n; ++j) h[p * n + j] /= pivot, inverse[p * n + j] /= pivot;
      for (int64_t i = 0; i < n; ++i) {
        const double factor = i == p ? 0 : h[i * n + p];
        for (int64_t j = 0; j < n && factor != 0; ++j) {
          h[i * n + j] -= factor * h[p * n + j];
          inverse[i * n + j] -= factor * inverse[p * n + j];
        }
      }
    }
  }
  std::vector<double> rows(layer.weights.begin(), layer.weights.end());
  int64_t different = 0;
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t o = 0; o < layer.out; ++o) {
      const QuantizedMatrix& matrix = solved->matrix;
      const double scale = F16ToFloat(matrix.scales[o * matrix.groups + j / 32]);
      const int code = std::clamp<int>(std::lround(rows[o * n + j] / scale) + 8, 0, 15);
      different += code != matrix.codes[o * n + j];
      const double error =
          (rows[o * n + j] - scale * (matrix.codes[o * n + j] - 8)) / inverse[j * (n + 1)];
      for (int64_t k = j; k < n; ++k) rows[o * n + k] -= error * inverse[j * n + k];
    }
    const double pivot = inverse[j * (n + 1)];
    for (int64_t i = j + 1; i < n; ++i) {
      for (int64_t k = j + 1; k < n; ++k) {
        inverse[i * n + k] -= inverse[i * n + j] * inverse[j * n + k] / pivot;
      }
    }
  }
  EXPECT_LE(different, 1);  // a weight may lie between two codes, within rounding
}

TEST(GptqTest, ActOrderRoundsTheMostActiveInputsFirst) {
  ThreadPool pool(1, {});
  Layer layer = MakeLayer(4, 96, pool);
  for (int64_t i : {90, 5}) layer.hessian[i * 97] *= 1000;
  GptqOptions options;
  options.group_size = 32;
  options.act_order = true;
  const auto solved = SolveGptq(pool, layer.weights, layer.out, layer.hessian, options);
  ASSERT_TRUE(solved.ok());
  const auto& group_of = solved->matrix.group_of;
  EXPECT_EQ(group_of[90], 0);
  EXPECT_EQ(group_of[5], 0);
  EXPECT_EQ(std::count(group_of.begin(), group_of.end(), 0), 32);
  EXPECT_EQ(std::count(group_of.begin(), group_of.end(), 2), 32);
}

TEST(GptqTest, ThreadsDoNotChangeABit) {
  ThreadPool one(1, {}), three(3, {});
  const Layer layer = MakeLayer(70, 256, one);
  const auto first = SolveGptq(one, layer.weights, layer.out, layer.hessian, {});
  const auto second = SolveGptq(three, layer.weights, layer.out, layer.hessian, {});
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->matrix.codes, second->matrix.codes);
  EXPECT_EQ(first->matrix.scales, second->matrix.scales);
}

TEST(GptqTest, InputsThatWereNeverActiveAreRoundedToNearest) {
  ThreadPool pool(1, {});
  Layer layer = MakeLayer(4, 64, pool);
  std::fill(layer.hessian.begin(), layer.hessian.end(), 0.0f);
  GptqOptions options;
  options.group_size = 32;
  const auto solved = SolveGptq(pool, layer.weights, layer.out, layer.hessian, options);
  ASSERT_TRUE(solved.ok()) << solved.status();
  const auto nearest = RoundToNearest(layer.weights, layer.out, options);
  EXPECT_EQ(solved->matrix.codes, nearest->codes);
  EXPECT_EQ(solved->matrix.scales, nearest->scales);
}

TEST(GptqTest, RaisesTheDampingOfAHessianThatCannotBeFactored) {
  ThreadPool pool(1, {});
  Layer layer = MakeLayer(2, 32, pool);
  std::fill(layer.hessian.begin(), layer.hessian.end(), 0.0f);
  for (int64_t i = 0; i < 32; ++i) layer.hessian[i * 33] = 1.0f;
  layer.hessian[1] = layer.hessian[32] = 1.05f;  // eigenvalue -0.05
  GptqOptions options;
  options.group_size = 32;
  const auto solved = SolveGptq(pool, layer.weights, layer.out, layer.hessian, options);
  ASSERT_TRUE(solved.ok()) << solved.status();
  EXPECT_NEAR(solved->damping, 0.1, 1e-12);
  layer.hessian[1] = layer.hessian[32] = 3.0f;
  const auto hopeless = SolveGptq(pool, layer.weights, layer.out, layer.hessian, options);
  EXPECT_EQ(hopeless.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(hopeless.status().message()), HasSubstr("even with damping 1"));
}

TEST(GptqTest, RefusesWhatTheFormatCannotHold) {
  ThreadPool pool(1, {});
  Layer layer = MakeLayer(2, 32, pool);
  const auto solve = [&](const GptqOptions& options) {
    return std::string(
        SolveGptq(pool, layer.weights, layer.out, layer.hessian, options).status().message());
  };
  EXPECT_THAT(solve({.bits = 3}), HasSubstr("bits is 3"));
  EXPECT_THAT(solve({.group_size = 100}), HasSubstr("group size is 100"));
  EXPECT_THAT(solve({.group_size = 256}), HasSubstr("allowed are 32, 64 and 128"));
  EXPECT_THAT(solve({.damping = 0}), HasSubstr("damping is 0"));
  layer.weights[33] = std::nanf("");
  EXPECT_THAT(solve({}), HasSubstr("weight [1, 1] is nan"));
  layer.weights[33] = 1e7f;
  EXPECT_THAT(solve({}), HasSubstr("row 1, group 0: weights are too large"));
}

TEST(GptqTest, AllZeroWeightsStayZero) {
  ThreadPool pool(1, {});
  Layer layer = MakeLayer(2, 32, pool);
  std::fill(layer.weights.begin(), layer.weights.end(), 0.0f);
  const auto solved = SolveGptq(pool, layer.weights, layer.out, layer.hessian, {});
  ASSERT_TRUE(solved.ok());
  EXPECT_EQ(solved->relative_error, 0);
  std::vector<float> values(64, 1.0f);
  Dequantize(solved->matrix, values.data());
  EXPECT_THAT(values, testing::Each(0.0f));
}

}  // namespace
}  // namespace qwenserve
