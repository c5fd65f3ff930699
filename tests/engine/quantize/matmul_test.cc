#include "engine/quantize/matmul.h"

#include <cmath>
#include <random>
#include <vector>

#include "engine/quantize/hessian.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

std::vector<float> Noise(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// What C is to become, in double, and how far float sums may be from it.
void ExpectProduct(const ProductShape& shape, float factor, MatrixView a, MatrixView b,
                   const std::vector<float>& before, const std::vector<float>& after) {
  const auto at = [](MatrixView m, int64_t i, int64_t j) {
    return double{m.data[i * m.row_stride + j * m.column_stride]};
  };
  for (int64_t i = 0; i < shape.rows; ++i) {
    for (int64_t j = 0; j < shape.columns; ++j) {
      double sum = before[i * shape.columns + j], size = std::fabs(sum);
      for (int64_t d = 0; d < shape.depth; ++d) {
        sum += factor * at(a, i, d) * at(b, d, j);
        size += std::fabs(at(a, i, d) * at(b, d, j));
      }
      const double tolerance = size * 1.2e-7 * (4 + std::sqrt(double(shape.depth)));
      ASSERT_NEAR(after[i * shape.columns + j], sum, tolerance) << i << ", " << j;
    }
  }
}

std::vector<const MatmulKernel*> KernelsOfThisMachine() {
  std::vector<const MatmulKernel*> kernels = {&kPortableMatmul};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    kernels.push_back(&kAvx2Matmul);
  }
  if (__builtin_cpu_supports("avx512f")) kernels.push_back(&kAvx512Matmul);
#endif
  return kernels;
}

TEST(AddProductTest, EqualsTheDefinitionForEveryKernelShapeAndStride) {
  const ProductShape shapes[] = {{1, 1, 1},    {3, 5, 2},      {12, 32, 256}, {13, 33, 257},
                                 {97, 1, 300}, {100, 400, 17}, {5, 385, 513}};
  for (const MatmulKernel* kernel : KernelsOfThisMachine()) {
    for (const ProductShape& shape : shapes) {
      const auto a = Noise(shape.rows * shape.depth, 1), b = Noise(shape.depth * shape.columns, 2);
      const auto before = Noise(shape.rows * shape.columns, 3);
      const MatrixView straight_a{a.data(), shape.depth, 1}, straight_b{b.data(), shape.columns, 1};
      const MatrixView turned_a{a.data(), 1, shape.rows}, turned_b{b.data(), 1, shape.depth};
      for (float factor : {1.0f, -1.0f}) {
        auto c = before;
        AddProduct(shape, factor, straight_a, straight_b, c.data(), shape.columns, *kernel);
        ExpectProduct(shape, factor, straight_a, straight_b, before, c);
        c = before;
        AddProduct(shape, factor, turned_a, turned_b, c.data(), shape.columns, *kernel);
        ExpectProduct(shape, factor, turned_a, turned_b, before, c);
      }
    }
  }
}

TEST(AddProductTest, ThreadsDoNotChangeABitAndTrianglesAreComplete) {
  const ProductShape shape{500, 500, 130};
  const auto a = Noise(shape.rows * shape.depth, 4), b = Noise(shape.depth * shape.columns, 5);
  const MatrixView left{a.data(), shape.depth, 1}, right{b.data(), shape.columns, 1};
  std::vector<float> expected(shape.rows * shape.columns);
  AddProduct(shape, 1.0f, left, right, expected.data(), shape.columns);
  for (int threads : {1, 3}) {
    ThreadPool pool(threads, {});
    for (Triangle triangle : {Triangle::kAll, Triangle::kUpper, Triangle::kLower}) {
      std::vector<float> c(expected.size());
      AddProduct(pool, triangle, shape, 1.0f, left, right, c.data(), shape.columns);
      for (int64_t i = 0; i < shape.rows; ++i) {
        for (int64_t j = 0; j < shape.columns; ++j) {
          if ((triangle == Triangle::kUpper && j < i) || (triangle == Triangle::kLower && j > i)) {
            continue;
          }
          ASSERT_EQ(c[i * shape.columns + j], expected[i * shape.columns + j]) << i << ", " << j;
        }
      }
    }
  }
}

TEST(HessianTest, IsTheSumOfOuterProductsOverAllCalls) {
  constexpr int64_t kWidth = 70, kRows = 40;
  const auto x = Noise(kWidth * kRows, 6);
  ThreadPool pool(2, {});
  Hessian hessian(kWidth);
  hessian.Add(pool, x.data(), 25);
  hessian.Add(pool, x.data() + 25 * kWidth, kRows - 25);
  ASSERT_TRUE(hessian.CheckFinite().ok());
  const std::vector<float> h = hessian.Take();
  for (int64_t i = 0; i < kWidth; ++i) {
    for (int64_t j = 0; j < kWidth; ++j) {
      double sum = 0;
      for (int64_t r = 0; r < kRows; ++r) sum += double{x[r * kWidth + i]} * x[r * kWidth + j];
      ASSERT_NEAR(h[i * kWidth + j], sum, 1e-4) << i << ", " << j;
      ASSERT_EQ(h[i * kWidth + j], h[j * kWidth + i]);
    }
  }
}

TEST(HessianTest, NamesInputsThatAreNotNumbers) {
  std::vector<float> x(3 * 4, 1.0f);
  x[1 * 4 + 2] = std::nanf("");
  x[2 * 4 + 3] = INFINITY;
  ThreadPool pool(1, {});
  Hessian hessian(4);
  hessian.Add(pool, x.data(), 3);
  const absl::Status status = hessian.CheckFinite();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "2 of 4 inputs became NaN or infinite on the calibration text, the first is number 2");
}

}  // namespace
}  // namespace qwenserve
