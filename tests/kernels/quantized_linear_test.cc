// Products with quantised weights: every format, group size, zero point and input order, on every
// instruction set against the reference, and against each other bit for bit.
#include <cmath>

#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"

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

TEST(QuantizedLinearTest, EveryInstructionSetIsWithinTheRoundingAndEqual) {
  Random random{7};
  ReferenceBackend reference;
  for (const Case& c : kCases) {
    for (const QuantizedShape& shape : QuantizedShapes(random, c.out, c.in, c.group)) {
      const RandomQuantizedRows source(random, shape);
      std::vector<float> x = random.Normals(c.rows * c.in);
      x[random.Below(static_cast<uint32_t>(c.in))] = 300;  // an outlier, as Qwen's activations have
      const std::vector<float> bias = random.Normals(c.out);
      std::vector<float> expected(c.rows * c.out), first;
      const LinearWeight oracle = *reference.PackQuantized(shape, source);
      reference.Linear(x.data(), c.rows, oracle, bias.data(), expected.data());
      for (const std::string& isa : AvailableIsas()) {
        const auto cpu = Cpu(isa, 2);
        const LinearWeight weight = *cpu->PackQuantized(shape, source);
        // Aligned, as the engine's is: large outputs may then go around the caches.
        const Buffer out = *cpu->Allocate(c.rows * c.out * sizeof(float));
        cpu->Linear(x.data(), c.rows, weight, bias.data(), out.as<float>());
        const std::vector<float> actual(out.as<float>(), out.as<float>() + c.rows * c.out);
        if (first.empty()) first = actual;
        for (size_t i = 0; i < actual.size(); ++i) {
          // Of the codes' own magnitude, since zero points are taken off at the end.
          const double terms = 300.0 * 300.0 * 0.02 * static_cast<double>(c.in);
          ASSERT_NEAR(actual[i], expected[i], terms * kFloatRounding) << isa << " " << i;
          ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(first[i]))
              << isa << " " << i << " rows " << c.rows << " in " << c.in;
        }
      }
    }
  }
}

TEST(QuantizedLinearTest, ARowAloneHasTheBitsThatItHasInABatch) {
  Random random{8};
  for (const Case& c : kCases) {
    for (const QuantizedShape& shape : QuantizedShapes(random, c.out, c.in, c.group)) {
      const RandomQuantizedRows source(random, shape);
      const std::vector<float> x = random.Normals(c.rows * c.in);
      for (const std::string& isa : AvailableIsas()) {
        const auto cpu = Cpu(isa, 2);
        const LinearWeight weight = *cpu->PackQuantized(shape, source);
        std::vector<float> all(c.rows * c.out), alone(c.out);
        cpu->Linear(x.data(), c.rows, weight, nullptr, all.data());
        for (int64_t r = 0; r < c.rows; ++r) {
          cpu->Linear(x.data() + r * c.in, 1, weight, nullptr, alone.data());
          for (int64_t o = 0; o < c.out; ++o) {
            ASSERT_EQ(std::bit_cast<uint32_t>(alone[o]),
                      std::bit_cast<uint32_t>(all[r * c.out + o]))
                << isa << " row " << r << " of " << c.rows << " column " << o;
          }
        }
      }
    }
  }
}

TEST(QuantizedLinearTest, EmbedReadsTheRowsThatWerePacked) {
  Random random{9};
  ReferenceBackend reference;
  const int32_t ids[] = {3, 0, 99, 16};
  for (const QuantizedShape& shape : QuantizedShapes(random, 20, 96, 32)) {
    const RandomQuantizedRows source(random, shape);
    std::vector<float> expected(4 * 96), actual(4 * 96);
    const LinearWeight oracle = *reference.PackQuantized(shape, source);
    reference.Embed(ids, 4, oracle, 0, expected.data());
    for (const std::string& isa : AvailableIsas()) {
      const auto cpu = Cpu(isa, 1);
      const LinearWeight weight = *cpu->PackQuantized(shape, source);
      cpu->Embed(ids, 4, weight, 0, actual.data());
      EXPECT_EQ(actual, expected) << isa;
    }
  }
}

TEST(QuantizedLinearTest, ARowThatIsNoNumberGivesNoNumberAndNoOtherRowDoes) {
  Random random{10};
  for (const QuantizedShape& shape : QuantizedShapes(random, 20, 96, 32)) {
    const RandomQuantizedRows source(random, shape);
    std::vector<float> x = random.Normals(3 * 96);
    x[96 + 40] = NAN;
    x[2 * 96 + 1] = INFINITY;
    for (const std::string& isa : AvailableIsas()) {
      const auto cpu = Cpu(isa, 1);
      const LinearWeight weight = *cpu->PackQuantized(shape, source);
      std::vector<float> out(3 * 20);
      cpu->Linear(x.data(), 3, weight, nullptr, out.data());
      for (int64_t o = 0; o < 20; ++o) {
        EXPECT_TRUE(std::isfinite(out[o])) << isa;
        EXPECT_FALSE(std::isfinite(out[20 + o])) << isa;
        EXPECT_FALSE(std::isfinite(out[40 + o])) << isa;
      }
    }
  }
}

class FailingRows final : public QuantizedRowSource {
 public:
  absl::Status ReadRows(int64_t begin, int64_t, const QuantizedRows&) const override {
    return begin < 64 ? absl::OkStatus() : absl::InvalidArgumentError("row 64 is damaged");
  }
};

TEST(QuantizedLinearTest, TheSourcesErrorEndsThePacking) {
  const QuantizedShape shape{WeightFormat::kInt4, 256, 64, 64, false, {}};
  const auto packed = Cpu("auto", 2)->PackQuantized(shape, FailingRows());
  EXPECT_EQ(packed.status(), absl::InvalidArgumentError("row 64 is damaged"));
}

}  // namespace
}  // namespace qwenserve
