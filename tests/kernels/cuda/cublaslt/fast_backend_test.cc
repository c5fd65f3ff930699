// The backend in its fast mode, over the emulation and a stand-in for cuBLASLt.
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cublaslt/product_choices.h"
#include "tests/kernels/cuda/cublaslt/fake_cublaslt.h"
#include "tests/kernels/cuda/simt_backend.h"
#include "tests/kernels/host_ops.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

constexpr int64_t kRows = 70, kIn = 64, kOut = 48;

class FastBackendTest : public testing::Test {
 protected:
  FastBackendTest() {
    // Choices are given, so that none depends on how long something takes here.
    const auto device = MakeSimtDevice(1);
    const GpuProperties& gpu = device->properties();
    ProductChoices choices(absl::StrCat(gpu.name, ", ", gpu.num_sms, " multiprocessors, driver ",
                                        gpu.driver_version, ", cublaslt ", fake_.version),
                           file_, nullptr);
    for (const WeightFormat format :
         {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kInt4}) {
      for (const bool bias : {false, true}) {
        ProductChoice choice;
        choice.own = false;
        choice.algo.data[0] = 7;
        choices.Add({128, kOut, kIn, format, bias}, choice);
      }
    }
    GpuBackendOptions options;
    options.cublaslt = FakeCublasLt::Api();
    options.choices_file = file_;
    fast_ = *MakeSimtBackend(1, nullptr, options);
  }
  ~FastBackendTest() override {
    fast_.reset();
    std::filesystem::remove_all(file_);
  }

  // `error`: of one output, for each unit of the sum of magnitudes.
  void ExpectNear(const std::vector<float>& a, const std::vector<float>& b, double error) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], error) << i;
  }

  FakeCublasLt fake_;
  std::string file_ = absl::StrCat(testing::TempDir(), "/fast_choices_", getpid(), ".tsv");
  std::unique_ptr<Backend> fast_, exact_ = *MakeSimtBackend(2);
  Random random_{3};
};

TEST_F(FastBackendTest, PromisesNoBits) {
  EXPECT_FALSE(fast_->invariant());
  EXPECT_TRUE(exact_->invariant());
}

TEST_F(FastBackendTest, ProductsOfManyRowsAreTheLibrarysAndOfFewOurs) {
  const std::vector<float> x = random_.Normals(kRows * kIn), bias = random_.Normals(kOut);
  const HostMatrix matrix(random_, DType::kBf16, kOut, kIn);
  const LinearWeight a = matrix.Pack(*fast_), b = matrix.Pack(*exact_);
  for (const std::vector<float>& add : {std::vector<float>(), bias}) {
    const size_t used = fake_.used.size();
    // The same products of bf16, added in another order; sums of 64 of about 1 are below 64.
    ExpectNear(HostOps(*fast_).Linear(x, kRows, a, add), HostOps(*exact_).Linear(x, kRows, b, add),
               64 * 64 * kFloatRounding);
    EXPECT_EQ(fake_.used.size(), used + 1);
  }
  fake_.used.clear();
  const std::vector<float> few(x.begin(), x.begin() + 64 * kIn);
  EXPECT_EQ(HostOps(*fast_).Linear(few, 64, a), HostOps(*exact_).Linear(few, 64, b));
  EXPECT_TRUE(fake_.used.empty());
  EXPECT_TRUE(fast_->Sync().ok());
}

TEST_F(FastBackendTest, QuantisedWeightsAreRoundedToBf16) {
  const std::vector<float> x = random_.Normals(kRows * kIn);
  for (const QuantizedShape& shape : QuantizedShapes(random_, kOut, kIn, 32)) {
    const RandomQuantizedRows rows(random_, shape);
    const LinearWeight a = *fast_->PackQuantized(shape, rows);
    const LinearWeight b = *exact_->PackQuantized(shape, rows);
    const size_t used = fake_.used.size();
    const std::vector<float> fast = HostOps(*fast_).Linear(x, kRows, a);
    const std::vector<float> exact = HostOps(*exact_).Linear(x, kRows, b);
    EXPECT_EQ(fake_.used.size(), used + 1);
    double largest = 0;
    for (const float value : exact) largest = std::max<double>(largest, std::abs(value));
    // Codes times scales of at most 256 * 0.016, 64 of them, each with a rounding to bf16; inputs
    // are below 4.
    const double most = shape.format == WeightFormat::kInt8 ? 256 * 0.016 : 16 * 0.016;
    ExpectNear(fast, exact, 64 * 4 * most * kBf16Rounding);
    EXPECT_GT(largest, 0.5);
  }
}

TEST_F(FastBackendTest, SwiGluIsAProductAndItsEnd) {
  const std::vector<float> x = random_.Normals(kRows * kIn);
  const HostMatrix matrix(random_, DType::kBf16, kOut, kIn);
  const LinearWeight a = matrix.Pack(*fast_), b = matrix.Pack(*exact_);
  const std::vector<float> fast = HostOps(*fast_).LinearSwiGlu(x, kRows, a);
  const std::vector<float> exact = HostOps(*exact_).LinearSwiGlu(x, kRows, b);
  EXPECT_EQ(fake_.used.size(), 1u);
  ASSERT_EQ(fast.size(), exact.size());
  for (size_t i = 0; i < fast.size(); ++i) {
    // Products differ by 2.5e-4 at most (above), which the other factor, below 80, multiplies; then
    // both are rounded to bf16, perhaps to different sides.
    ASSERT_NEAR(fast[i], exact[i], 0.02 + 2 * kBf16Rounding * std::abs(exact[i])) << i;
  }
}

}  // namespace
}  // namespace qwenserve
