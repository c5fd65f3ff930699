// All instruction sets of a CPU give the same bits, and the kernel table's name stands for them.
#include <bit>
#include <limits>

#include "tests/kernels/all_ops.h"

namespace qwenserve {
namespace {

constexpr int64_t kAnyWork = std::numeric_limits<int64_t>::max();

TEST(IsaTest, AllInstructionSetsGiveTheSameBits) {
  const std::vector<float> all = RunAllOps(*Cpu("portable"), kAnyWork);
  const std::vector<float> without_bf16 = RunAllOps(*Cpu("portable"), kAnyWork, false);
  for (const std::string& isa : AvailableIsas()) {
    const bool dots = DotsBf16(*Cpu(isa), DType::kBf16);
    EXPECT_TRUE(SameBits(RunAllOps(*Cpu(isa), kAnyWork, !dots), dots ? without_bf16 : all)) << isa;
    EXPECT_EQ(Cpu(isa)->kernel_table(WeightFormat::kF32),
              Cpu("portable")->kernel_table(WeightFormat::kF32));
  }
}

// FNV-1a over the bits of all results.
uint64_t Fingerprint(const std::vector<float>& values) {
  uint64_t hash = 14695981039346656037u;
  for (float value : values) hash = (hash ^ std::bit_cast<uint32_t>(value)) * 1099511628211u;
  return hash;
}

TEST(IsaTest, TheBitsBelongToTheNumberInTheKernelTablesName) {
  EXPECT_EQ(Cpu("portable")->kernel_table(WeightFormat::kBf16), "cpu-2");
  EXPECT_EQ(Fingerprint(RunAllOps(*Cpu("portable"), kAnyWork)), 10064374240204864867u)
      << "replicas of different builds would continue each other's streams with other tokens: "
         "raise the number in CpuBackend::kernel_table() with any change of bits";
}

// Machines whose dots round differently must not pass for equal, and one machine must for itself.
TEST(IsaTest, TheNameOfBf16DotsTellsTheMachinesRounding) {
  if (!MakeCpuBackend({.isa = "avx512bf16"}).ok()) GTEST_SKIP() << "no dots of bf16 here";
  const std::string name = Cpu("avx512bf16")->kernel_table(WeightFormat::kBf16);
  EXPECT_EQ(name.substr(0, 14), "cpu-2-bf16dot-");
  EXPECT_EQ(name.size(), 14u + 16u);
  EXPECT_EQ(Cpu("avx512bf16", 1)->kernel_table(WeightFormat::kBf16), name);
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kF16, WeightFormat::kInt4}) {
    EXPECT_EQ(Cpu("avx512bf16")->kernel_table(format), "cpu-2");
  }
}

TEST(IsaTest, QuantisedProductsHaveTheSameBits) {
  struct Case {
    int64_t rows, out, in, group;
  };
  Random random{7};
  for (const Case& c : {Case{1, 75, 300, 128}, Case{8, 64, 896, 128}, Case{37, 48, 544, 128},
                        Case{26, 80, 1100, 1 << 20}, Case{120, 8752, 32, 32}}) {
    for (const QuantizedShape& shape : QuantizedShapes(random, c.out, c.in, c.group)) {
      const RandomQuantizedRows source(random, shape);
      const std::vector<float> x = random.Normals(c.rows * c.in), bias = random.Normals(c.out);
      std::vector<float> first;
      for (const std::string& isa : AvailableIsas()) {
        const auto cpu = Cpu(isa, 2);
        // Memory as the engine's: large outputs may go around the caches.
        const std::vector<float> out =
            HostOps(*cpu).Linear(x, c.rows, *cpu->PackQuantized(shape, source), bias);
        if (first.empty()) first = out;
        ASSERT_TRUE(SameBits(out, first)) << isa << " rows " << c.rows << " in " << c.in;
      }
    }
  }
}

}  // namespace
}  // namespace qwenserve
