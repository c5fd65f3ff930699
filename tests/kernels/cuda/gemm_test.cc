// The products of a GPU against double, and against themselves beside other rows.
#include <cmath>
#include <numeric>

#include "gtest/gtest.h"
#include "kernels/cuda/elementwise/gpu_elementwise.h"
#include "tests/kernels/cuda/gemm_harness.h"

namespace qwenserve {
namespace {

INSTANTIATE_TEST_SUITE_P(Devices, GemmTest, GemmDevices(),
                         [](const auto& info) { return info.param; });

LinearWeight Pack(GpuLinear& ops, const HostMatrix& matrix) {
  const RowBlock block = matrix.Rows(0, matrix.rows);
  absl::StatusOr<LinearWeight> weight = ops.PackLinear({&block, 1}, matrix.columns);
  EXPECT_TRUE(weight.ok()) << weight.status();
  return *std::move(weight);
}
LinearWeight Pack(GpuLinear& ops, const QuantMatrix& matrix) {
  for (std::atomic<int>& reads : matrix.reads) reads = 0;
  absl::StatusOr<LinearWeight> weight = ops.PackQuantized(matrix.shape, matrix);
  EXPECT_TRUE(weight.ok()) << weight.status();
  for (const std::atomic<int>& reads : matrix.reads) EXPECT_EQ(reads, 1);
  EXPECT_EQ(weight->bytes(), GpuWeightBytes(matrix.shape));
  return *std::move(weight);
}

struct Shape {
  int64_t out, in;
};
// Odd sizes, whole tiles and granules, one past them, and parts over several blocks.
constexpr Shape kShapes[] = {{1, 1},   {5, 7},    {16, 64},  {33, 100},
                             {48, 65}, {130, 72}, {40, 256}, {20, 4104}};
constexpr int64_t kRows[] = {1, 3, 8, 9, 17, 33, 65, 130};

TEST_P(GemmTest, FloatProductsAreWithinTheirRoundings) {
  GpuLinear ops = Ops();
  for (DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const Shape& shape : kShapes) {
      const HostMatrix matrix(random_, dtype, shape.out, shape.in);
      const LinearWeight weight = Pack(ops, matrix);
      EXPECT_EQ(weight.bytes(), GpuWeightBytes(weight.format, shape.out, shape.in));
      for (int64_t rows : kRows) {
        if (rows * shape.out * shape.in > 1'500'000) continue;
        const auto x = RandomX(rows * shape.in);
        const std::vector<float> bias =
            rows % 2 == 0 ? std::vector<float>{} : random_.Normals(shape.out);
        ExpectProducts(Linear(ops, x, rows, weight, bias), x, rows, matrix, shape.out, shape.in,
                       bias);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(GemmTest, QuantisedProductsAreWithinTheirRoundings) {
  GpuLinear ops = Ops();
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (const Shape& shape : {Shape{1, 1}, {5, 33}, {48, 416}, {17, 1000}, {20, 8200}}) {
      for (int64_t group : {32, 64, 128, 160, 1 << 20}) {
        for (bool zeros : {false, true}) {
          const QuantMatrix matrix(random_, {.format = format,
                                             .out_features = shape.out,
                                             .in_features = shape.in,
                                             .group_size = group,
                                             .has_zeros = zeros,
                                             .input_order = {}});
          const LinearWeight weight = Pack(ops, matrix);
          for (int64_t rows : {int64_t{1}, int64_t{11}, int64_t{35}}) {
            if (rows * shape.out * shape.in > 400'000) continue;
            const auto x = RandomX(rows * shape.in);
            ExpectProducts(Linear(ops, x, rows, weight, {}), x, rows, matrix, shape.out, shape.in,
                           {});
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_P(GemmTest, InputsInAnotherOrderAreGathered) {
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    constexpr int64_t kOut = 24, kIn = 200;
    std::vector<int32_t> order(256, -1);
    std::iota(order.begin(), order.begin() + kIn, 0);
    random_.Shuffle(order);
    GpuLinear ops = Ops();
    const QuantMatrix matrix(random_, {.format = format,
                                       .out_features = kOut,
                                       .in_features = kIn,
                                       .group_size = 64,
                                       .has_zeros = true,
                                       .input_order = order});
    const LinearWeight weight = Pack(ops, matrix);
    for (int64_t rows : {2, 40, 520}) {
      const auto x = RandomX(rows * kIn);
      ExpectProducts(Linear(ops, x, rows, weight, {}), x, rows, matrix, kOut, kIn, {});
    }
  }
}

// Row 0 and the last row of many, beside the same rows alone.
void ExpectSameBits(const std::vector<float>& many, const std::vector<float>& one, int64_t row,
                    int64_t width, const char* what) {
  for (int64_t o = 0; o < width; ++o) {
    ASSERT_EQ(std::bit_cast<uint32_t>(many[row * width + o]), std::bit_cast<uint32_t>(one[o]))
        << what << ", output " << o;
  }
}

class Invariance : public GemmTest {
 protected:
  template <typename Matrix>
  void Expect(const Matrix& matrix, int64_t out, int64_t in) {
    std::vector<std::vector<float>> alone;
    constexpr int64_t kMost = 130;
    const auto x = RandomX(kMost * in);
    const std::vector<float> bias = random_.Normals(out);
    // A tiny GPU and a large one: the plans differ, the bits must not.
    for (int num_sms : {132, 1}) {
      GpuLinear ops = Ops(num_sms);
      const LinearWeight weight = Pack(ops, matrix);
      if (alone.empty()) {
        for (int64_t r : {int64_t{0}, kMost - 1}) {
          const std::vector<uint16_t> row(x.begin() + r * in, x.begin() + (r + 1) * in);
          alone.push_back(Linear(ops, row, 1, weight, bias));
        }
      }
      for (int64_t rows : {1, 3, 8, 17, 64, 65, 130}) {
        // The last row of all stands last.
        std::vector<uint16_t> some(x.begin(), x.begin() + rows * in);
        std::copy(x.end() - in, x.end(), some.end() - in);
        const std::vector<float> many = Linear(ops, some, rows, weight, bias);
        if (rows > 1) ExpectSameBits(many, alone[0], 0, out, "first row");
        ExpectSameBits(many, alone[1], rows - 1, out, "last row");
        if (HasFatalFailure()) {
          ADD_FAILURE() << rows << " rows, " << num_sms << " multiprocessors";
          return;
        }
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, Invariance, GemmDevices(),
                         [](const auto& info) { return info.param; });

TEST_P(Invariance, OfFloatProducts) {
  for (DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    // 520 inputs: parts of two and three granules; 2100: eight parts in two blocks.
    for (const Shape& shape : {Shape{40, 520}, {20, 2100}}) {
      const HostMatrix matrix(random_, dtype, shape.out, shape.in);
      Expect(matrix, shape.out, shape.in);
    }
  }
}

TEST_P(Invariance, OfQuantisedProducts) {
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (int64_t group : {64, 128, 1 << 20}) {
      // Eight parts in two blocks, or nine tiles: blocks of four, and some that are not there.
      const int64_t out = group == 64 ? 24 : 136;
      const QuantMatrix matrix(random_, {.format = format,
                                         .out_features = out,
                                         .in_features = group == 64 ? 4200 : 1000,
                                         .group_size = group,
                                         .has_zeros = group != 128,
                                         .input_order = {}});
      Expect(matrix, out, matrix.shape.in_features);
    }
  }
}

class SwiGlu : public GemmTest {
 protected:
  // The fused op beside its two parts.
  void Expect(GpuLinear& ops, const LinearWeight& weight, std::vector<int64_t> many_rows) {
    const int64_t in = weight.in_features, width = weight.out_features / 2;
    for (int64_t rows : many_rows) {
      uint16_t* x = Upload(RandomX(rows * in));
      float* gate_up = Upload(std::vector<float>(rows * 2 * width));
      uint16_t* expected = Upload(std::vector<uint16_t>(rows * width));
      ops.Linear(x, rows, weight, nullptr, gate_up);
      GpuElementwise(*device_, elementwise_).SiluMul(gate_up, rows, width, expected);
      float* scratch = Upload(std::vector<float>(rows * 2 * width));
      uint16_t* out = Upload(std::vector<uint16_t>(rows * width, 0x7fc0));
      ops.LinearSwiGlu(x, rows, weight, scratch, out);
      ASSERT_EQ(Download(out, rows * width), Download(expected, rows * width))
          << WeightFormatName(weight.format) << " " << width << " x " << in << ", " << rows
          << " rows";
      buffers_.clear();
    }
  }

#ifdef QS_WITH_CUDA
  const ElementwiseKernels elementwise_ =
      GetParam() == "cuda" ? on_cuda::GetElementwiseKernels() : on_simt::GetElementwiseKernels();
#else
  const ElementwiseKernels elementwise_ = on_simt::GetElementwiseKernels();
#endif
};

INSTANTIATE_TEST_SUITE_P(Devices, SwiGlu, GemmDevices(),
                         [](const auto& info) { return info.param; });

TEST_P(SwiGlu, FusedHasTheBitsOfItsParts) {
  GpuLinear ops = Ops();
  // 24 outputs each: not whole tiles, so not fused; the others are.
  for (int64_t width : {16, 24, 80}) {
    for (int64_t in : {64, 200, 2100}) {
      for (DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
        const HostMatrix matrix(random_, dtype, 2 * width, in);
        Expect(ops, Pack(ops, matrix),
               in == 2100 ? std::vector<int64_t>{1, 9} : std::vector<int64_t>{1, 9, 20, 70});
        if (HasFatalFailure()) return;
      }
    }
  }
}

// The widest blocks, of which the last is not full; five pairs of tiles.
TEST_P(SwiGlu, FusedHasTheBitsOfItsPartsInWideBlocks) {
  GpuLinear ops = Ops(1);
  Expect(ops, Pack(ops, HostMatrix(random_, DType::kBf16, 160, 200)), {1, 9, 20, 150});
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const QuantMatrix matrix(random_, {.format = format,
                                       .out_features = 160,
                                       .in_features = 300,
                                       .group_size = 128,
                                       .has_zeros = true,
                                       .input_order = {}});
    Expect(ops, Pack(ops, matrix), {1, 9, 20, 70});
  }
}

// Counters and partial sums are left so that the next product finds them as it needs them, in a
// graph, too.
TEST_P(GemmTest, ProductsCanBeRecordedAndRepeated) {
  GpuLinear ops = Ops();
  const HostMatrix matrix(random_, DType::kBf16, 20, 2100);
  const LinearWeight weight = Pack(ops, matrix);
  const uint16_t* x = Upload(RandomX(40 * 2100));
  std::vector<float*> outs;
  for (int i = 0; i < 4; ++i) outs.push_back(Upload(std::vector<float>(40 * 20)));
  ops.Linear(x, 3, weight, nullptr, outs[0]);
  ops.Linear(x, 40, weight, nullptr, outs[1]);
  ASSERT_TRUE(device_->Synchronize(absl::Seconds(60)).ok());
  device_->BeginCapture();
  ops.Linear(x, 3, weight, nullptr, outs[2]);
  ops.Linear(x, 40, weight, nullptr, outs[3]);
  absl::StatusOr<std::unique_ptr<GpuGraph>> graph = device_->EndCapture();
  ASSERT_TRUE(graph.ok()) << graph.status();
  for (int i = 0; i < 2; ++i) {
    device_->LaunchGraph(**graph);
    EXPECT_EQ(Download(outs[2], 3 * 20), Download(outs[0], 3 * 20));
    EXPECT_EQ(Download(outs[3], 40 * 20), Download(outs[1], 40 * 20));
  }
}

}  // namespace
}  // namespace qwenserve
