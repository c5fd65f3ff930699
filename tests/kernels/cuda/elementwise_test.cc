// The kernels of the small ops over the emulation, beside sums in double.
#include <cmath>

#include "gtest/gtest.h"
#include "kernels/cuda/elementwise/gpu_elementwise.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

class ElementwiseTest : public testing::TestWithParam<uint64_t> {
 protected:
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
    EXPECT_TRUE(device_->Synchronize(absl::Seconds(10)).ok());
    return values;
  }
  uint16_t* Bf16s(int64_t count) { return Upload(std::vector<uint16_t>(count, 0x7fc0)); }

  std::unique_ptr<GpuDevice> device_ = MakeSimtDevice(GetParam());
  GpuElementwise ops_{*device_, on_simt::GetElementwiseKernels()};
  std::vector<Buffer> buffers_;
  Random random_{5};
};

INSTANTIATE_TEST_SUITE_P(Seeds, ElementwiseTest, testing::Values(1, 2));

// Widths of both kernels, with and without units of 4, of less than a thread's share and beyond
// what stays in registers.
constexpr int64_t kWidths[] = {1, 3, 8, 64, 250, 1000, 1022, 1024, 1028, 1536, 3001, 8192, 12292};

TEST_P(ElementwiseTest, NormsAreWithinTheirRoundings) {
  for (int64_t width : kWidths) {
    for (bool add : {false, true}) {
      const int64_t rows = 3;
      const std::vector<float> x = random_.Normals(rows * width, 3.0f);
      const std::vector<float> residual = random_.Normals(rows * width);
      const std::vector<float> weight = random_.Normals(width);
      float* sum = add ? Upload(residual) : nullptr;
      uint16_t* out = Bf16s(rows * width);
      ops_.AddRmsNorm(Upload(x), rows, width, sum, Upload(weight), 1e-6f, out);
      const std::vector<uint16_t> actual = Download(out, rows * width);
      std::vector<float> in = x;
      if (add) {
        for (size_t i = 0; i < in.size(); ++i) in[i] = residual[i] + x[i];
        EXPECT_EQ(Download(sum, rows * width), in);
      }
      for (int64_t r = 0; r < rows; ++r) {
        double squares = 0;
        for (int64_t i = r * width; i < (r + 1) * width; ++i) {
          squares += static_cast<double>(in[i]) * in[i];
        }
        const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-6);
        for (int64_t i = 0; i < width; ++i) {
          const double expected = in[r * width + i] * scale * weight[i];
          // A chain of at most 128 in each thread, halved by the root; 12 roundings more; then
          // bf16.
          ASSERT_NEAR(Bf16ToFloat(actual[r * width + i]), expected,
                      std::fabs(expected) * (kBf16Rounding + 80 * kFloatRounding))
              << width << " " << r << " " << i;
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, ARowOfANormHasTheSameBitsAmongOthers) {
  for (int64_t width : {250, 1000, 1536}) {
    const std::vector<float> x = random_.Normals(9 * width), weight = random_.Normals(width);
    float* in = Upload(x);
    float* factors = Upload(weight);
    uint16_t* all = Bf16s(9 * width);
    uint16_t* one = Bf16s(width);
    ops_.AddRmsNorm(in, 9, width, nullptr, factors, 1e-6f, all);
    for (int64_t r = 0; r < 9; ++r) {
      ops_.AddRmsNorm(in + r * width, 1, width, nullptr, factors, 1e-6f, one);
      EXPECT_EQ(Download(one, width), Download(all + r * width, width));
    }
  }
}

TEST_P(ElementwiseTest, SiluMul) {
  for (int64_t width : {1, 6, 12, 500, 516}) {
    std::vector<float> gate_up = random_.Normals(3 * 2 * width, 20.0f);
    gate_up[0] = -1e30f;
    uint16_t* out = Bf16s(3 * width);
    ops_.SiluMul(Upload(gate_up), 3, width, out);
    const std::vector<uint16_t> actual = Download(out, 3 * width);
    for (int64_t i = 0; i < 3 * width; ++i) {
      const double gate = gate_up[i / width * 2 * width + i % width];
      const double up = gate_up[i / width * 2 * width + width + i % width];
      const double expected = gate / (1 + std::exp(-gate)) * up;
      // The exponent is rounded before it is used: an error of |gate| roundings; and the machine's
      // power of two has four.
      const double relative = kBf16Rounding + (std::fabs(gate) * 2 + 8) * kFloatRounding;
      // Results below the smallest normal bf16 count as 0.
      ASSERT_NEAR(Bf16ToFloat(actual[i]), expected, std::fabs(expected) * relative + 0x1p-120)
          << gate << " " << up;
    }
  }
}

TEST_P(ElementwiseTest, GatherRowsMovesBits) {
  for (int64_t width : {1, 5, 64, 3000}) {
    std::vector<uint16_t> x;
    for (int64_t i = 0; i < 7 * width; ++i)
      x.push_back(static_cast<uint16_t>(random_.Below(65536)));
    const std::vector<int32_t> rows = {6, 0, 3, 3};
    uint16_t* out = Bf16s(4 * width);
    ops_.GatherRows(Upload(x), width, Upload(rows), 4, out);
    std::vector<uint16_t> expected;
    for (int32_t row : rows) {
      expected.insert(expected.end(), x.begin() + row * width, x.begin() + (row + 1) * width);
    }
    EXPECT_EQ(Download(out, 4 * width), expected);
  }
}

TEST_P(ElementwiseTest, TakeDrawnReplacesOnlyWhatIsNegative) {
  const std::vector<int32_t> drawn = {11, -1, 13};
  std::vector<int32_t> ids(300, 5), expected(300, 5);
  ids[0] = -3, expected[0] = 13;
  ids[2] = -1, expected[2] = 11;
  ids[299] = -2, expected[299] = 0;
  int32_t* at = Upload(ids);
  ops_.TakeDrawn(Upload(drawn), 300, at);
  EXPECT_EQ(Download(at, 300), expected);
}

TEST_P(ElementwiseTest, NoRowsAreNoWork) {
  ops_.AddRmsNorm(nullptr, 0, 64, nullptr, nullptr, 1e-6f, nullptr);
  ops_.SiluMul(nullptr, 0, 64, nullptr);
  ops_.GatherRows(nullptr, 64, nullptr, 0, nullptr);
  ops_.TakeDrawn(nullptr, 0, nullptr);
  EXPECT_TRUE(device_->Synchronize(absl::Seconds(1)).ok());
}

}  // namespace
}  // namespace qwenserve
