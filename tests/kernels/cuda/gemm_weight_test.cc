// Weights of a GPU: what is packed comes back.
#include <cmath>
#include <numeric>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/gemm_harness.h"

namespace qwenserve {
namespace {

// Rows by Embed, which must be exact, and the whole by Unpack, rounded once.
class WeightTest : public GemmTest {
 protected:
  template <typename Matrix>
  void Expect(GpuLinear& ops, const LinearWeight& weight, const Matrix& matrix) {
    const int64_t out = weight.out_features, in = weight.in_features;
    constexpr int64_t kFirst = 1000;
    // The first and the last, some between, and some of other ranks.
    const std::vector<int32_t> ids = {1000,
                                      999,
                                      static_cast<int32_t>(kFirst + out - 1),
                                      static_cast<int32_t>(kFirst + out),
                                      0,
                                      static_cast<int32_t>(kFirst + out / 2)};
    const auto count = static_cast<int64_t>(ids.size());
    float* embedded = Upload(std::vector<float>(count * in, NAN));
    ops.Embed(Upload(ids), count, weight, kFirst, embedded);
    const std::vector<float> rows = Download(embedded, count * in);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = ids[r] - kFirst;
      for (int64_t i = 0; i < in; ++i) {
        const float expected = row < 0 || row >= out ? 0.0f : static_cast<float>(matrix.At(row, i));
        ASSERT_EQ(rows[r * in + i], expected) << "id " << ids[r] << ", input " << i;
      }
    }
    uint16_t* unpacked = Upload(std::vector<uint16_t>(out * in, 0));
    ops.Unpack(weight, unpacked);
    const std::vector<uint16_t> all = Download(unpacked, out * in);
    for (int64_t i = 0; i < out * in; ++i) {
      const auto expected = static_cast<float>(matrix.At(i / in, i % in));
      ASSERT_EQ(Bf16ToFloat(all[i]), Bf16ToFloat(FloatToBf16(expected))) << i / in << " " << i % in;
    }
    buffers_.clear();
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, WeightTest, GemmDevices(),
                         [](const auto& info) { return info.param; });

TEST_P(WeightTest, FloatWeightsComeBackExactly) {
  GpuLinear ops = Ops();
  for (DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (const auto& [out, in] :
         {std::pair<int64_t, int64_t>{1, 1}, {16, 64}, {17, 65}, {40, 130}, {64, 200}}) {
      const HostMatrix matrix(random_, dtype, out, in);
      const RowBlock block = matrix.Rows(0, out);
      absl::StatusOr<LinearWeight> weight = ops.PackLinear({&block, 1}, in);
      ASSERT_TRUE(weight.ok()) << weight.status();
      Expect(ops, *weight, matrix);
    }
  }
}

TEST_P(WeightTest, QuantisedWeightsComeBackExactly) {
  GpuLinear ops = Ops();
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (int64_t group : {32, 128, 160, 1 << 20}) {
      for (bool ordered : {false, true}) {
        QuantizedShape shape = {.format = format,
                                .out_features = 37,
                                .in_features = 300,
                                .group_size = group,
                                .has_zeros = group != 128,
                                .input_order = {}};
        if (ordered) {
          shape.input_order.assign(320, -1);
          std::iota(shape.input_order.begin(), shape.input_order.begin() + 300, 0);
          random_.Shuffle(shape.input_order);
        }
        const QuantMatrix matrix(random_, shape);
        absl::StatusOr<LinearWeight> weight = ops.PackQuantized(shape, matrix);
        ASSERT_TRUE(weight.ok()) << weight.status();
        Expect(ops, *weight, matrix);
      }
    }
  }
}

// Slices of two matrices, one below the other: rows that are apart in memory.
TEST_P(WeightTest, BlocksAreStacked) {
  GpuLinear ops = Ops();
  const HostMatrix first(random_, DType::kBf16, 9, 300), second(random_, DType::kBf16, 30, 250);
  struct Stacked {
    double At(int64_t row, int64_t column) const {
      return row < 9 ? first.At(row, 100 + column) : second.At(row - 9 + 4, column);
    }
    const HostMatrix &first, &second;
  } stacked = {first, second};
  RowBlock blocks[] = {first.Rows(0, 9), second.Rows(4, 26)};
  blocks[0].data = static_cast<const uint16_t*>(blocks[0].data) + 100;
  absl::StatusOr<LinearWeight> weight = ops.PackLinear(blocks, 150);
  ASSERT_TRUE(weight.ok()) << weight.status();
  EXPECT_EQ(weight->out_features, 35);
  Expect(ops, *weight, stacked);
}

// More than fits into one buffer of the ring.
TEST_P(WeightTest, LargeWeightsComeInPieces) {
  GpuLinear ops = Ops();
  constexpr int64_t kOut = 4500, kIn = 2056;
  static_assert(kOut * kIn * 2 > static_cast<int64_t>(UploadOptions().buffer_bytes));
  std::vector<uint16_t> values(kOut * kIn);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint16_t>(0x3f00u + i * 2654435761u % 255);
  }
  const RowBlock block = {
      .data = values.data(), .dtype = DType::kBf16, .rows = kOut, .row_stride = kIn};
  absl::StatusOr<LinearWeight> weight = ops.PackLinear({&block, 1}, kIn);
  ASSERT_TRUE(weight.ok()) << weight.status();
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < kOut; id += 3) ids.push_back(id);
  const auto count = static_cast<int64_t>(ids.size());
  float* embedded = Upload(std::vector<float>(count * kIn));
  ops.Embed(Upload(ids), count, *weight, 0, embedded);
  const std::vector<float> rows = Download(embedded, count * kIn);
  for (int64_t i = 0; i < count * kIn; ++i) {
    ASSERT_EQ(rows[i], Bf16ToFloat(values[ids[i / kIn] * kIn + i % kIn])) << i / kIn;
  }
}

TEST_P(WeightTest, ErrorsOfTheSourceEndThePackingAlone) {
  GpuLinear ops = Ops();
  const QuantizedShape shape = {.format = WeightFormat::kInt4,
                                .out_features = 40,
                                .in_features = 64,
                                .group_size = 32,
                                .has_zeros = false,
                                .input_order = {}};
  QuantMatrix matrix(random_, shape);
  matrix.damaged = 33;
  EXPECT_EQ(ops.PackQuantized(shape, matrix).status().code(), absl::StatusCode::kDataLoss);
  matrix.damaged = -1;
  absl::StatusOr<LinearWeight> weight = ops.PackQuantized(shape, matrix);
  ASSERT_TRUE(weight.ok()) << weight.status();
  Expect(ops, *weight, matrix);
}

TEST_P(WeightTest, StagingIsGivenBackAndTakenAgain) {
  GpuLinear ops = Ops();
  const HostMatrix matrix(random_, DType::kBf16, 20, 64);
  const RowBlock block = matrix.Rows(0, 20);
  absl::StatusOr<LinearWeight> first = ops.PackLinear({&block, 1}, 64);
  const size_t free = device_->memory().free;
  ops.ReleaseStaging();
  EXPECT_GE(device_->memory().free, free + UploadOptions().buffer_bytes);
  absl::StatusOr<LinearWeight> second = ops.PackLinear({&block, 1}, 64);
  ASSERT_TRUE(first.ok() && second.ok());
  Expect(ops, *first, matrix);
  Expect(ops, *second, matrix);
}

}  // namespace
}  // namespace qwenserve
