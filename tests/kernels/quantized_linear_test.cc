// Products with quantised weights: every format, group size, zero point and input order, on every
// device against the reference.
#include <cmath>
#include <cstring>

#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/test_device.h"

namespace qwenserve {
namespace {

struct Case {
  int64_t rows, out, in, group;
};

constexpr Case kCases[] = {{1, 16, 32, 32},         {1, 75, 300, 128},   {2, 33, 256, 128},
                           {3, 40, 64, 1024},       {5, 17, 96, 32},     {8, 64, 896, 128},
                           {13, 31, 40, 64},        {37, 48, 544, 128},  {70, 96, 256, 256},
                           {1, 160, 896, 128},      {4, 130, 448, 64},   {17, 20, 640, 1 << 20},
                           {26, 80, 1100, 1 << 20}, {130, 41, 320, 160}, {120, 8752, 32, 32}};

class QuantizedLinearTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    reference_.emplace(device_ != nullptr && Rounds() ? InputRounding::kGpu : InputRounding::kCpu);
    oracle_.emplace(*reference_);
  }
  static bool Fits(const Case& c) { return c.rows * c.out * c.in <= MaxTestWork(); }

  std::optional<ReferenceBackend> reference_;
  std::optional<HostOps> oracle_;
};

QS_INSTANTIATE_FOR_TEST_DEVICES(QuantizedLinearTest);

TEST_P(QuantizedLinearTest, IsWithinTheRounding) {
  Random random{7};
  for (const Case& c : kCases) {
    if (!Fits(c)) continue;
    for (const QuantizedShape& shape : QuantizedShapes(random, c.out, c.in, c.group)) {
      const RandomQuantizedRows source(random, shape);
      std::vector<float> x = AsActivations(*device_, random.Normals(c.rows * c.in));
      x[random.Below(static_cast<uint32_t>(c.in))] = 300;  // an outlier, as Qwen's activations have
      const std::vector<float> bias = random.Normals(c.out);
      const std::vector<float> expected =
          oracle_->Linear(x, c.rows, *reference_->PackQuantized(shape, source), bias);
      const std::vector<float> actual =
          ops_->Linear(x, c.rows, *device_->PackQuantized(shape, source), bias);
      for (size_t i = 0; i < actual.size(); ++i) {
        // Of the codes' own magnitude, since zero points may be taken off at the end.
        const double terms = 300.0 * 300.0 * 0.02 * static_cast<double>(c.in);
        ASSERT_NEAR(actual[i], expected[i], terms * kFloatRounding) << i << " in " << c.in;
      }
    }
  }
}

TEST_P(QuantizedLinearTest, ARowAloneHasTheBitsThatItHasInABatch) {
  Random random{8};
  for (const Case& c : kCases) {
    if (!Fits(c)) continue;
    for (const QuantizedShape& shape : QuantizedShapes(random, c.out, c.in, c.group)) {
      const RandomQuantizedRows source(random, shape);
      const std::vector<float> x = random.Normals(c.rows * c.in);
      const LinearWeight weight = *device_->PackQuantized(shape, source);
      const std::vector<float> all = ops_->Linear(x, c.rows, weight);
      for (int64_t r = 0; r < c.rows; ++r) {
        const std::vector<float> alone = ops_->Linear(
            std::vector<float>(x.begin() + r * c.in, x.begin() + (r + 1) * c.in), 1, weight);
        ASSERT_EQ(std::memcmp(alone.data(), &all[r * c.out], alone.size() * sizeof(float)), 0)
            << "row " << r << " of " << c.rows;
      }
    }
  }
}

TEST_P(QuantizedLinearTest, EmbedReadsTheRowsThatWerePacked) {
  Random random{9};
  const std::vector<int32_t> ids = {3, 0, 99, 16};
  for (const QuantizedShape& shape : QuantizedShapes(random, 20, 96, 32)) {
    const RandomQuantizedRows source(random, shape);
    EXPECT_EQ(ops_->Embed(ids, *device_->PackQuantized(shape, source), 0),
              oracle_->Embed(ids, *reference_->PackQuantized(shape, source), 0));
  }
}

TEST_P(QuantizedLinearTest, ARowThatIsNoNumberGivesNoNumberAndNoOtherRowDoes) {
  Random random{10};
  for (const QuantizedShape& shape : QuantizedShapes(random, 20, 96, 32)) {
    const RandomQuantizedRows source(random, shape);
    std::vector<float> x = random.Normals(3 * 96);
    x[96 + 40] = NAN;
    x[2 * 96 + 1] = INFINITY;
    const std::vector<float> out = ops_->Linear(x, 3, *device_->PackQuantized(shape, source));
    for (int64_t o = 0; o < 20; ++o) {
      EXPECT_TRUE(std::isfinite(out[o]));
      EXPECT_FALSE(std::isfinite(out[20 + o]));
      EXPECT_FALSE(std::isfinite(out[40 + o]));
    }
  }
}

class FailingRows final : public QuantizedRowSource {
 public:
  absl::Status ReadRows(int64_t, int64_t end, const QuantizedRows&) const override {
    return end <= 64 ? absl::OkStatus() : absl::InvalidArgumentError("row 64 is damaged");
  }
};

TEST_P(QuantizedLinearTest, TheSourcesErrorEndsThePacking) {
  const QuantizedShape shape{WeightFormat::kInt4, 256, 64, 64, false, {}};
  const auto packed = device_->PackQuantized(shape, FailingRows());
  EXPECT_EQ(packed.status(), absl::InvalidArgumentError("row 64 is damaged"));
}

}  // namespace
}  // namespace qwenserve
