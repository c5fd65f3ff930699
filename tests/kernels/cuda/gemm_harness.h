#ifndef QWENSERVE_TESTS_KERNELS_CUDA_GEMM_HARNESS_H_
#define QWENSERVE_TESTS_KERNELS_CUDA_GEMM_HARNESS_H_

// Products over a device, and the same in double.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/gemm/gpu_linear.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {

// A quantised matrix as a checkpoint has it.
struct QuantMatrix : QuantizedRowSource {
  QuantMatrix(Random& random, QuantizedShape the_shape) : shape(std::move(the_shape)) {
    const int range = shape.format == WeightFormat::kInt8 ? 256 : 16;
    for (int64_t i = 0; i < shape.out_features * shape.packed_inputs(); ++i) {
      codes.push_back(static_cast<uint8_t>(random.Below(range)));
    }
    for (int64_t i = 0; i < shape.out_features * shape.groups(); ++i) {
      scales.push_back(FloatToF16(0.01f + 0.001f * static_cast<float>(random.Below(100))));
      // 4 bits: up to 16.
      const uint32_t zero = random.Below(range == 16 ? 17 : 256);
      zeros.push_back(static_cast<uint8_t>(shape.has_zeros ? zero : range / 2));
    }
    reads = std::vector<std::atomic<int>>(shape.out_features);
  }
  absl::Status ReadRows(int64_t begin, int64_t end, const QuantizedRows& rows) const override {
    if (begin <= damaged && damaged < end) return absl::DataLossError("damaged");
    const int64_t inputs = shape.packed_inputs(), groups = shape.groups();
    for (int64_t r = begin; r < end; ++r) {
      ++reads[r];
      std::copy_n(&codes[r * inputs], inputs, rows.codes + (r - begin) * inputs);
      std::copy_n(&scales[r * groups], groups, rows.scales + (r - begin) * groups);
      if (shape.has_zeros)
        std::copy_n(&zeros[r * groups], groups, rows.zeros + (r - begin) * groups);
    }
    return absl::OkStatus();
  }
  // The element that input `column` of x meets.
  float At(int64_t row, int64_t column) const {
    int64_t packed = column;
    if (!shape.input_order.empty()) {
      const auto found = std::find(shape.input_order.begin(), shape.input_order.end(), column);
      if (found == shape.input_order.end()) return 0;
      packed = found - shape.input_order.begin();
    }
    const int64_t at = row * shape.groups() + packed / shape.group_size;
    const int code = codes[row * shape.packed_inputs() + packed];
    return F16ToFloat(scales[at]) * static_cast<float>(code - zeros[at]);
  }

  QuantizedShape shape;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;
  std::vector<uint8_t> zeros;
  int64_t damaged = -1;
  mutable std::vector<std::atomic<int>> reads;
};

// Over the emulation, its threads in one order or another, and over a GPU.
inline auto GemmDevices() {
#ifdef QS_WITH_CUDA
  return testing::Values("simt", "simt_other_order", "cuda");
#else
  return testing::Values("simt", "simt_other_order");
#endif
}

class GemmTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() != "cuda") {
      device_ = MakeSimtDevice(GetParam() == "simt" ? 7 : 8);
      kernels_ = on_simt::GetGemmKernels();
      return;
    }
#ifdef QS_WITH_CUDA
    auto device = MakeCudaDevice(0);
    if (absl::IsNotFound(device.status())) GTEST_SKIP() << device.status().message();
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    kernels_ = on_cuda::GetGemmKernels();
#endif
  }

  template <typename T>
  T* Upload(const std::vector<T>& values) {
    buffers_.push_back(*AllocateGpuBuffer(*device_, values.size() * sizeof(T)));
    device_->CopyToDevice(buffers_.back().data(), values.data(), values.size() * sizeof(T),
                          GpuStream::kCompute);
    return buffers_.back().as<T>();
  }
  template <typename T>
  std::vector<T> Download(const T* at, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    device_->CopyToHost(values.data(), at, values.size() * sizeof(T), GpuStream::kCompute);
    EXPECT_TRUE(device_->Synchronize(absl::Seconds(60)).ok());
    return values;
  }
  // Products by one of two planners: on a large GPU blocks share outputs, on a tiny one they don't
  // and the widest tiles are taken.
  GpuLinear Ops(int num_sms = 132) { return GpuLinear(*device_, kernels_, num_sms); }

  std::vector<uint16_t> RandomX(int64_t count) {
    std::vector<uint16_t> x;
    for (int64_t i = 0; i < count; ++i) x.push_back(FloatToBf16(random_.Normal()));
    return x;
  }

  std::vector<float> Linear(GpuLinear& ops, const std::vector<uint16_t>& x, int64_t rows,
                            const LinearWeight& weight, const std::vector<float>& bias) {
    float* out = Upload(std::vector<float>(rows * weight.out_features, NAN));
    ops.Linear(Upload(x), rows, weight, bias.empty() ? nullptr : Upload(bias), out);
    std::vector<float> result = Download(out, rows * weight.out_features);
    buffers_.clear();
    return result;
  }

  std::unique_ptr<GpuDevice> device_;
  GemmKernels kernels_;
  std::vector<Buffer> buffers_;
  Random random_{3};
};

// Parts, groups, scales and the bias.
inline constexpr double kMaxPartsRoundings = 64;

// Sums of n products in float, whatever their order: n roundings, of up to two units on tensor
// cores, which cut off instead of rounding. Matrix: At(row, column).
template <typename Matrix>
void ExpectProducts(const std::vector<float>& actual, const std::vector<uint16_t>& x, int64_t rows,
                    const Matrix& weight, int64_t out_features, int64_t in_features,
                    const std::vector<float>& bias) {
  ASSERT_EQ(actual.size(), static_cast<size_t>(rows * out_features));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out_features; ++o) {
      double sum = bias.empty() ? 0.0 : bias[o], magnitude = std::abs(sum);
      for (int64_t i = 0; i < in_features; ++i) {
        const double product =
            static_cast<double>(Bf16ToFloat(x[r * in_features + i])) * weight.At(o, i);
        sum += product;
        magnitude += std::abs(product);
      }
      const double roundings = static_cast<double>(in_features) + kMaxPartsRoundings;
      ASSERT_NEAR(actual[r * out_features + o], sum, roundings * 2 * kFloatRounding * magnitude)
          << "row " << r << ", output " << o << " of " << out_features << " x " << in_features;
    }
  }
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_CUDA_GEMM_HARNESS_H_
