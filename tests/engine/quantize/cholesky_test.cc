#include "engine/quantize/cholesky.h"

#include <cmath>
#include <random>
#include <vector>

#include "engine/quantize/hessian.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

// X^T X of more rows than columns, and something on the diagonal.
std::vector<float> PositiveDefinite(int64_t n, ThreadPool& pool) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(2 * n * n));
  for (float& value : x) value = normal(random);
  Hessian hessian(n);
  hessian.Add(pool, x.data(), 2 * n);
  return hessian.Take();
}

TEST(CholeskyTest, UTransposedTimesUIsTheInverse) {
  ThreadPool pool(3, {});
  for (int64_t n : {1, 2, 127, 128, 129, 200, 520}) {
    const std::vector<float> h = PositiveDefinite(n, pool);
    std::vector<float> u = h;
    ASSERT_TRUE(InvertToUpperCholesky(pool, u.data(), n).ok());
    // h^-1 = U^T U, so U h U^T = 1.
    std::vector<double> uh(static_cast<size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) ASSERT_EQ(u[i * n + j], 0.0f) << n << ": " << i << ", " << j;
      for (int64_t k = i; k < n; ++k) {
        for (int64_t j = 0; j < n; ++j) uh[i * n + j] += double{u[i * n + k]} * h[k * n + j];
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double product = 0;
        for (int64_t k = j; k < n; ++k) product += uh[i * n + k] * u[j * n + k];
        ASSERT_NEAR(product, i == j ? 1.0 : 0.0, 2e-4) << n << ": " << i << ", " << j;
      }
    }
  }
}

TEST(CholeskyTest, ThreadsDoNotChangeABit) {
  constexpr int64_t kSize = 700;
  ThreadPool one(1, {}), four(4, {});
  const std::vector<float> h = PositiveDefinite(kSize, four);
  std::vector<float> first = h, second = h;
  ASSERT_TRUE(InvertToUpperCholesky(one, first.data(), kSize).ok());
  ASSERT_TRUE(InvertToUpperCholesky(four, second.data(), kSize).ok());
  EXPECT_EQ(first, second);
}

TEST(CholeskyTest, NamesThePivotOfAMatrixThatIsNotPositiveDefinite) {
  ThreadPool pool(1, {});
  std::vector<float> h = {1, 2, 2, 1};
  const absl::Status status = InvertToUpperCholesky(pool, h.data(), 2);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("pivot 1 of 2 is -3"));
}

}  // namespace
}  // namespace qwenserve
