// A row's bits depend on its own inputs and position only. Everything here compares bits.
#include <bit>
#include <cstring>
#include <map>

#include "tests/kernels/attention_harness.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

// EXPECT_EQ on floats would call -0 and 0 equal.
bool SameBits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}
bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && SameBits(a.data(), b.data(), static_cast<int64_t>(a.size()));
}
bool SameBits(const AttentionResult& a, const AttentionResult& b) {
  for (size_t s = 0; s < a.out.size(); ++s) {
    if (!SameBits(a.out[s], b.out[s]) || !SameBits(a.queries[s], b.queries[s])) return false;
  }
  return true;
}

class InvarianceTest : public testing::TestWithParam<std::string> {
 protected:
  Random random_{7};
};

INSTANTIATE_TEST_SUITE_P(Isas, InvarianceTest, testing::ValuesIn(AvailableIsas()),
                         [](const auto& info) { return info.param; });

TEST_P(InvarianceTest, ALinearRowAloneEqualsItselfInAnyBatch) {
  std::unique_ptr<Backend> one = Cpu(GetParam(), 1), three = Cpu(GetParam(), 3);
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    // Depth beyond two depth blocks, an incomplete last panel, panels for groups of 4, 2 and 1.
    const HostMatrix matrix(random_, dtype, 117, 600);
    const LinearWeight a = matrix.Pack(*one), b = matrix.Pack(*three);
    const std::vector<float> x = random_.Normals(250 * 600), bias = random_.Normals(117);
    std::vector<float> single(250 * 117);
    for (int64_t r = 0; r < 250; ++r) {
      one->Linear(&x[r * 600], 1, a, bias.data(), &single[r * 117]);
    }
    for (int64_t rows = 1; rows <= 37; ++rows) {
      std::vector<float> batch(rows * 117);
      three->Linear(x.data(), rows, b, bias.data(), batch.data());
      ASSERT_TRUE(SameBits(single.data(), batch.data(), rows * 117)) << rows << " rows";
    }
    std::vector<float> batch(250 * 117);
    three->Linear(x.data(), 250, b, bias.data(), batch.data());
    EXPECT_TRUE(SameBits(single, batch));
  }
}

// The inputs of wide models are used block by block: 11008 in a 7B model.
TEST_P(InvarianceTest, ADeepLinearRowAloneEqualsItselfInAnyBatch) {
  constexpr int64_t kDepth = 11009, kOut = 49;
  std::unique_ptr<Backend> one = Cpu(GetParam(), 1), two = Cpu(GetParam(), 2);
  const std::vector<float> x = random_.Normals(30 * kDepth), bias = random_.Normals(kOut);
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const HostMatrix matrix(random_, dtype, kOut, kDepth);
    const LinearWeight a = matrix.Pack(*one), b = matrix.Pack(*two);
    std::vector<float> single(30 * kOut);
    for (int64_t r = 0; r < 30; ++r) {
      one->Linear(&x[r * kDepth], 1, a, bias.data(), &single[r * kOut]);
    }
    for (int64_t rows : {2, 12, 13, 30}) {
      std::vector<float> batch(rows * kOut);
      two->Linear(x.data(), rows, b, bias.data(), batch.data());
      ASSERT_TRUE(SameBits(single.data(), batch.data(), rows * kOut)) << rows << " rows";
    }
  }
}

// Runs every op on data large enough that all threads take part and returns all results.
std::vector<float> RunAllOps(Backend& backend, bool bf16_linear = true) {
  Random random(11);
  std::vector<float> all;
  const auto append = [&all](const std::vector<float>& v) {
    all.insert(all.end(), v.begin(), v.end());
  };
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const HostMatrix matrix(random, dtype, 203, 384);
    const LinearWeight weight = matrix.Pack(backend);
    for (int64_t rows : {1, 2, 3, 5, 8, 13, 64}) {
      if (dtype == DType::kBf16 && !bf16_linear) break;
      const std::vector<float> x = random.Normals(rows * 384);
      std::vector<float> out(rows * 203);
      backend.Linear(x.data(), rows, weight, nullptr, out.data());
      append(out);
    }
    std::vector<int32_t> ids(64);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.Below(203));
    std::vector<float> embedded(64 * 384);
    backend.Embed(ids.data(), 64, weight, 0, embedded.data());
    append(embedded);
  }
  for (const QuantizedShape& shape : QuantizedShapes(random, 203, 500, 64)) {
    const LinearWeight weight = *backend.PackQuantized(shape, RandomQuantizedRows(random, shape));
    for (int64_t rows : {1, 2, 9, 40}) {
      const std::vector<float> x = random.Normals(rows * 500), bias = random.Normals(203);
      std::vector<float> out(rows * 203);
      backend.Linear(x.data(), rows, weight, bias.data(), out.data());
      append(out);
    }
  }
  for (int64_t width : {5, 500, 3001}) {
    std::vector<float> x = random.Normals(33 * width, 5.0f), out(33 * width);
    std::vector<float> residual = random.Normals(33 * width);
    const std::vector<float> weight = random.Normals(width);
    backend.RmsNorm(x.data(), 33, width, weight.data(), 1e-6f, out.data());
    append(out);
    backend.AddRmsNorm(x.data(), 33, width, residual.data(), weight.data(), 1e-6f, out.data());
    append(out);
    append(residual);
    const std::vector<float> gate_up = random.Normals(66 * width, 30.0f);
    backend.SiluMul(gate_up.data(), 33, width, out.data());
    append(out);
  }
  uint32_t seed = 20;
  for (const HeadLayout& heads : TestHeadLayouts()) {
    for (KvFormat format : kAllKvFormats) {
      const AttentionProblem problem(++seed, heads, format, {40, 3, 65});
      const AttentionResult result = RunWhole(backend, problem);
      for (size_t s = 0; s < problem.lengths.size(); ++s) {
        append(result.out[s]);
        append(result.queries[s]);
      }
    }
  }
  // Across segments, in a batch that threads share by cutting the longest sequence.
  for (KvFormat format : kAllKvFormats) {
    const AttentionProblem problem(++seed, TestHeadLayouts()[3], format, {600, 10});
    AttentionRunner runner(backend, problem);
    runner.Run({{0, 0, 598}, {1, 0, 9}});
    runner.Run({{0, 598, 599}});
    runner.Run({{0, 599, 600}, {1, 9, 10}});
    append(runner.result().out[0]);
  }
  return all;
}

TEST_P(InvarianceTest, AnyNumberOfThreadsGivesTheSameBits) {
  const std::vector<float> expected = RunAllOps(*Cpu(GetParam(), 1));
  for (int threads = 2; threads <= 4; ++threads) {
    EXPECT_TRUE(SameBits(RunAllOps(*Cpu(GetParam(), threads)), expected)) << threads;
  }
}

TEST(IsaTest, AllInstructionSetsGiveTheSameBits) {
  const std::vector<float> all = RunAllOps(*Cpu("portable"));
  const std::vector<float> without_bf16 = RunAllOps(*Cpu("portable"), false);
  for (const std::string& isa : AvailableIsas()) {
    const bool dots = DotsBf16(*Cpu(isa), DType::kBf16);
    EXPECT_TRUE(SameBits(RunAllOps(*Cpu(isa), !dots), dots ? without_bf16 : all)) << isa;
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
  EXPECT_EQ(Fingerprint(RunAllOps(*Cpu("portable"))), 10064374240204864867u)
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

bool SameCache(const AttentionRunner& a, const AttentionRunner& b) {
  return std::memcmp(a.memory().data(), b.memory().data(), a.memory().bytes()) == 0;
}

// The rows' results, and the bytes that they leave in the cache.
void ExpectTheSameHoweverCut(const std::string& isa, const AttentionProblem& problem,
                             const std::vector<int>& cuts) {
  const int length = problem.lengths[0];
  std::unique_ptr<Backend> one = Cpu(isa, 1), cpu = Cpu(isa, 3);
  AttentionRunner whole(*one, problem);
  whole.Run({{0, 0, length}});
  AttentionRunner decode(*cpu, problem);
  for (int p = 0; p < length; ++p) decode.Run({{0, p, p + 1}});
  EXPECT_TRUE(SameBits(whole.result(), decode.result())) << KvFormatName(problem.kv_format);
  EXPECT_TRUE(SameCache(whole, decode)) << KvFormatName(problem.kv_format);
  AttentionRunner chunked(*cpu, problem);
  int begin = 0;
  for (int end : cuts) {
    chunked.Run({{0, begin, end}});
    begin = end;
  }
  EXPECT_TRUE(SameBits(whole.result(), chunked.result())) << KvFormatName(problem.kv_format);
  EXPECT_TRUE(SameCache(whole, chunked)) << KvFormatName(problem.kv_format);
}

TEST_P(InvarianceTest, PrefillWholeOrInChunksOrTokenByTokenIsTheSame) {
  uint32_t seed = 100;
  for (KvFormat format : kAllKvFormats) {
    if (!IsInvariant(format)) continue;
    for (const HeadLayout& heads : TestHeadLayouts()) {
      // Cuts inside, at and across block borders.
      ExpectTheSameHoweverCut(GetParam(), AttentionProblem(++seed, heads, format, {75}),
                              {7, 16, 17, 48, 63, 75});
    }
    // Inside, at and across the borders of segments and of what is worked on at once.
    for (int layout : {2, 3}) {
      ExpectTheSameHoweverCut(GetParam(),
                              AttentionProblem(++seed, TestHeadLayouts()[layout], format, {530}),
                              {64, 250, 256, 257, 300, 384, 511, 513, 530});
    }
  }
}

// The parity format takes its scale from all tokens of a step, as the original does: a later
// version that chunked its prompts would be another format.
TEST_P(InvarianceTest, TheQwenFormatDependsOnTheCut) {
  std::unique_ptr<Backend> cpu = Cpu(GetParam());
  const AttentionProblem problem(150, TestHeadLayouts()[0], KvFormat::kQwenInt8, {40});
  AttentionRunner whole(*cpu, problem), cut(*cpu, problem);
  whole.Run({{0, 0, 40}});
  cut.Run({{0, 0, 20}});
  cut.Run({{0, 20, 40}});
  EXPECT_FALSE(SameCache(whole, cut));
}

TEST_P(InvarianceTest, RandomRaggedBatchesChangeNothing) {
  for (uint32_t seed = 200; seed < 208; ++seed) {
    const std::vector<HeadLayout> layouts = TestHeadLayouts();
    const KvFormat format = static_cast<KvFormat>(seed % 3);  // all but the one that may not be cut
    const AttentionProblem problem(seed, layouts[seed % layouts.size()], format,
                                   {50, 1, 33, 64, 17, 90});
    const AttentionResult whole = RunWhole(*Cpu(GetParam(), 1), problem);
    std::unique_ptr<Backend> cpu = Cpu(GetParam(), 3);
    AttentionRunner runner(*cpu, problem);
    std::vector<int> done(problem.lengths.size());
    while (true) {
      // Some sequences, in any order, each with a chunk of any length.
      std::vector<int> order;
      for (size_t s = 0; s < done.size(); ++s) {
        if (done[s] < problem.lengths[s]) order.push_back(static_cast<int>(s));
      }
      if (order.empty()) break;
      random_.Shuffle(order);
      order.resize(1 + random_.Below(static_cast<uint32_t>(order.size())));
      Step step;
      for (int s : order) {
        const int left = problem.lengths[s] - done[s];
        const int most = random_.Below(3) == 0 ? 40 : 2;
        const int count = std::min<int>(left, 1 + static_cast<int>(random_.Below(most)));
        step.push_back({s, done[s], done[s] + count});
        done[s] += count;
      }
      runner.Run(step);
    }
    EXPECT_TRUE(SameBits(whole, runner.result())) << "seed " << seed;
  }
}

TEST_P(InvarianceTest, ARowThatIsNoNumberStaysAlone) {
  AttentionProblem problem(300, TestHeadLayouts()[0], KvFormat::kBf16, {20, 30});
  const AttentionResult clean = RunWhole(*Cpu(GetParam()), problem);
  for (float& v : problem.qkv[0]) v = std::nanf("");
  const AttentionResult poisoned = RunWhole(*Cpu(GetParam()), problem);
  EXPECT_TRUE(std::isnan(poisoned.out[0][0]));
  EXPECT_TRUE(SameBits(clean.out[1], poisoned.out[1]));
}

}  // namespace
}  // namespace qwenserve
