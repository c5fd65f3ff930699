// Every op, on every instruction set and in every format, against the reference. Tolerances are
// error bounds computed from the inputs: a chain of n roundings of float is off by at most
// n * 2^-24 of the sum of its terms' magnitudes.
#include <cmath>

#include "tests/kernels/attention_harness.h"
#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {
namespace {

class BackendConformanceTest : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> cpu_ = Cpu(GetParam());
  ReferenceBackend reference_;
  Random random_{1};
};

INSTANTIATE_TEST_SUITE_P(Isas, BackendConformanceTest, testing::ValuesIn(AvailableIsas()),
                         [](const auto& info) { return info.param; });

constexpr DType kWeightTypes[] = {DType::kF32, DType::kBf16, DType::kF16};

TEST_P(BackendConformanceTest, LinearIsWithinTheRoundingOfItsChain) {
  struct Shape {
    int64_t rows, out, in;
  };
  // Below, at and above the borders of tiles, panels, row blocks and depth blocks.
  const Shape shapes[] = {{1, 16, 8},    {1, 75, 300},   {2, 33, 257},  {3, 40, 64},
                          {5, 17, 96},   {12, 47, 33},   {13, 31, 40},  {37, 64, 513},
                          {14, 30, 600}, {241, 18, 256}, {30, 95, 901}, {14, 33, 5200}};
  for (DType dtype : kWeightTypes) {
    for (const Shape& shape : shapes) {
      for (bool with_bias : {false, true}) {
        const HostMatrix matrix(random_, dtype, shape.out, shape.in);
        std::vector<float> x = random_.Normals(shape.rows * shape.in);
        const std::vector<float> bias = random_.Normals(shape.out);
        const float* b = with_bias ? bias.data() : nullptr;
        std::vector<float> expected(shape.rows * shape.out), actual(shape.rows * shape.out);
        cpu_->Linear(x.data(), shape.rows, matrix.Pack(*cpu_), b, actual.data());
        // Dots of bf16 round the inputs first.
        for (float& v : x) v = DotsBf16(*cpu_, dtype) ? Bf16ToFloat(FloatToBf16(v)) : v;
        reference_.Linear(x.data(), shape.rows, matrix.Pack(reference_), b, expected.data());
        for (int64_t r = 0; r < shape.rows; ++r) {
          for (int64_t o = 0; o < shape.out; ++o) {
            double terms = with_bias ? std::fabs(bias[o]) : 0.0;
            for (int64_t i = 0; i < shape.in; ++i) {
              terms += std::fabs(x[r * shape.in + i] * matrix.At(o, i));
            }
            const double tolerance = static_cast<double>(shape.in + 2) * kFloatRounding * terms;
            ASSERT_NEAR(actual[r * shape.out + o], expected[r * shape.out + o], tolerance)
                << DTypeName(dtype) << " row " << r << " column " << o;
          }
        }
      }
    }
  }
}

TEST_P(BackendConformanceTest, PackLinearJoinsBlocksAndSlicesRows) {
  for (DType dtype : kWeightTypes) {
    const HostMatrix matrix(random_, dtype, 50, 24);
    // Rows 7..29 and 40..49, columns 5..14 of each.
    RowBlock blocks[2] = {matrix.Rows(7, 23), matrix.Rows(40, 10)};
    for (RowBlock& block : blocks) {
      block.data = static_cast<const char*>(block.data) + 5 * DTypeBytes(dtype);
    }
    absl::StatusOr<LinearWeight> weight = cpu_->PackLinear(blocks, 10);
    ASSERT_TRUE(weight.ok());
    EXPECT_EQ(weight->out_features, 33);
    EXPECT_EQ(weight->in_features, 10);
    std::vector<int32_t> ids(33);
    for (int i = 0; i < 33; ++i) ids[i] = i;
    std::vector<float> rows(33 * 10);
    cpu_->Embed(ids.data(), 33, *weight, 0, rows.data());
    for (int r = 0; r < 33; ++r) {
      for (int c = 0; c < 10; ++c) {
        ASSERT_EQ(rows[r * 10 + c], matrix.At(r < 23 ? 7 + r : 17 + r, 5 + c)) << r << " " << c;
      }
    }
  }
}

TEST_P(BackendConformanceTest, EmbedIsExactAndZeroOutsideTheTable) {
  for (DType dtype : kWeightTypes) {
    const HostMatrix matrix(random_, dtype, 100, 40);
    const std::vector<int32_t> ids = {250, 200, 299, 300, 199, 0, 237};
    std::vector<float> expected(ids.size() * 40, 7.0f), actual(ids.size() * 40, 7.0f);
    reference_.Embed(ids.data(), 7, matrix.Pack(reference_), 200, expected.data());
    cpu_->Embed(ids.data(), 7, matrix.Pack(*cpu_), 200, actual.data());
    EXPECT_EQ(actual, expected);
    EXPECT_EQ(actual[3 * 40], 0.0f);
    EXPECT_EQ(actual[6 * 40 + 1], matrix.At(37, 1));
  }
}

TEST_P(BackendConformanceTest, RmsNormAndAddRmsNorm) {
  for (int64_t width : {1, 7, 8, 64, 900, 4096}) {
    const int64_t rows = 19;
    const std::vector<float> x = random_.Normals(rows * width, 3.0f);
    const std::vector<float> weight = random_.Normals(width);
    std::vector<float> residual = random_.Normals(rows * width), expected_residual = residual;
    std::vector<float> expected(rows * width), actual(rows * width);
    // Sum of squares by 8 lanes and a tree, halved by the root, plus the remaining operations.
    const double relative =
        (static_cast<double>(width) / 8 + 8) / 2 * kFloatRounding + 6 * kFloatRounding;
    const auto compare = [&] {
      for (int64_t i = 0; i < rows * width; ++i) {
        ASSERT_NEAR(actual[i], expected[i], relative * std::fabs(expected[i]));
      }
    };
    reference_.RmsNorm(x.data(), rows, width, weight.data(), 1e-6f, expected.data());
    cpu_->RmsNorm(x.data(), rows, width, weight.data(), 1e-6f, actual.data());
    compare();
    reference_.AddRmsNorm(x.data(), rows, width, expected_residual.data(), weight.data(), 1e-6f,
                          expected.data());
    cpu_->AddRmsNorm(x.data(), rows, width, residual.data(), weight.data(), 1e-6f, actual.data());
    EXPECT_EQ(residual, expected_residual);
    compare();
  }
}

TEST_P(BackendConformanceTest, SiluMul) {
  for (int64_t width : {1, 13, 512, 1000}) {
    const int64_t rows = 17;
    std::vector<float> gate_up = random_.Normals(rows * 2 * width, 20.0f);
    for (size_t i = 0; i < gate_up.size(); i += 97) gate_up[i] *= 1000;
    std::vector<float> expected(rows * width), actual(rows * width);
    reference_.SiluMul(gate_up.data(), rows, width, expected.data());
    cpu_->SiluMul(gate_up.data(), rows, width, actual.data());
    for (int64_t i = 0; i < rows * width; ++i) {
      // Four roundings of exp, three of the rest; and exp ends at 2^127 instead of infinity.
      const double up = gate_up[i / width * 2 * width + width + i % width];
      const double gate = gate_up[i / width * 2 * width + i % width];
      const double tolerance =
          7 * kFloatRounding * std::fabs(expected[i]) + std::fabs(gate * up) * 0x1p-126;
      ASSERT_NEAR(actual[i], expected[i], tolerance) << gate << " " << up;
    }
  }
}

TEST_P(BackendConformanceTest, GatherRows) {
  const std::vector<float> x = random_.Normals(9 * 5);
  const std::vector<int32_t> rows = {8, 0, 3, 3};
  std::vector<float> expected(4 * 5), actual(4 * 5);
  reference_.GatherRows(x.data(), 5, rows.data(), 4, expected.data());
  cpu_->GatherRows(x.data(), 5, rows.data(), 4, actual.data());
  EXPECT_EQ(actual, expected);
}

// Compares attention and rotated queries of all rows. key_error: relative error of a stored key.
void CompareAttention(const AttentionProblem& problem, const AttentionResult& expected,
                      const AttentionResult& actual, double key_error) {
  const HeadLayout& heads = problem.heads;
  const int64_t dim = heads.head_dim, width = heads.query_width();
  // Norm (its sum by 8 lanes), then rotation and scale.
  const double rotated = (static_cast<double>(dim) / 16 + 12) * kFloatRounding;
  for (size_t s = 0; s < problem.lengths.size(); ++s) {
    for (int64_t p = 0; p < problem.lengths[s]; ++p) {
      for (int64_t h = 0; h < heads.num_query_heads; ++h) {
        const float* q = &expected.queries[s][p * width + h * dim];
        double q_norm = 0, max_value = 0;
        for (int64_t d = 0; d < dim; ++d) q_norm += static_cast<double>(q[d]) * q[d];
        q_norm = std::sqrt(q_norm);
        for (int64_t d = 0; d < dim; ++d) {
          // A rotation keeps the length of its pair.
          const double pair = std::hypot(q[d % (dim / 2)], q[d % (dim / 2) + dim / 2]);
          ASSERT_NEAR(actual.queries[s][p * width + h * dim + d], q[d], rotated * pair);
        }
        // Keys: unit mean square times the norm weight, or raw. Bounded by their longest.
        double key_length = 0;
        for (int64_t t = 0; t <= p; ++t) {
          const float* row = &problem.qkv[s][t * heads.qkv_width() + width];
          double length = 0;
          const int64_t kv_head = (h + heads.query_offset) / heads.queries_per_kv;
          for (int64_t d = 0; d < dim; ++d) {
            const double key = row[kv_head * dim + d];
            length += key * key;
            max_value =
                std::max<double>(max_value, std::fabs(row[heads.kv_width() + kv_head * dim + d]));
          }
          key_length = std::max(key_length, std::sqrt(length));
        }
        double weight = 1;
        if (problem.norm) {
          for (float w : problem.k_norm) weight = std::max<double>(weight, std::fabs(w));
          key_length = std::sqrt(static_cast<double>(dim)) * weight;
        }
        const double score = q_norm * key_length / std::sqrt(static_cast<double>(dim));
        const double score_error =
            score * (key_error + rotated + static_cast<double>(dim + 4) * kFloatRounding);
        // Each probability is off by a factor exp(+-2 score_error) and the roundings of a sum.
        const double relative =
            std::expm1(2 * score_error) + static_cast<double>(2 * p + 40) * kFloatRounding;
        for (int64_t d = 0; d < dim; ++d) {
          const int64_t i = p * width + h * dim + d;
          ASSERT_NEAR(actual.out[s][i], expected.out[s][i], relative * 2 * max_value)
              << "sequence " << s << " position " << p << " head " << h << " element " << d;
        }
      }
    }
  }
}

TEST_P(BackendConformanceTest, AttentionOfStoredKeys) {
  // Without norm and rotation both caches hold the same numbers, so that only attention differs.
  uint32_t seed = 1;
  for (const HeadLayout& heads : TestHeadLayouts()) {
    for (KvFormat format : kAllKvFormats) {
      AttentionProblem problem(++seed, heads, format, {1, 16, 17, 70, 33});
      KeepAsIs(problem);
      // A quantised key is its code times its scale, both here and there: a rounding or two.
      CompareAttention(problem, RunWhole(reference_, problem), RunWhole(*cpu_, problem),
                       4 * kFloatRounding);
    }
  }
}

TEST_P(BackendConformanceTest, AttentionOverManySegments) {
  // Up to and beyond the borders at 256 and 512 positions, in one prefill and in decode.
  uint32_t seed = 30;
  for (int layout : {2, 3}) {
    for (KvFormat format : kAllKvFormats) {
      AttentionProblem problem(++seed, TestHeadLayouts()[layout], format, {256, 530, 257});
      KeepAsIs(problem);
      const AttentionResult expected = RunWhole(reference_, problem);
      CompareAttention(problem, expected, RunWhole(*cpu_, problem), 4 * kFloatRounding);
    }
  }
}

TEST_P(BackendConformanceTest, RowsOfFillingChangeNothing) {
  const HeadLayout heads = TestHeadLayouts()[2];
  for (KvFormat format : kAllKvFormats) {
    AttentionProblem problem(50, heads, format, {1, 40, 17});
    AttentionProblem filled = problem;
    filled.filling = 5;
    for (Backend* backend : {cpu_.get(), static_cast<Backend*>(&reference_)}) {
      AttentionRunner alone(*backend, problem), together(*backend, filled);
      const Step steps[] = {{{0, 0, 1}, {1, 0, 39}, {2, 0, 16}}, {{1, 39, 40}, {2, 16, 17}}};
      for (const Step& step : steps) {
        alone.Run(step);
        together.Run(step);
      }
      EXPECT_EQ(together.result().out, alone.result().out);
      EXPECT_EQ(
          std::memcmp(together.memory().data(), alone.memory().data(), alone.memory().bytes()), 0);
    }
  }
}

// softmax over one position is 1, so the result is the value as it is stored.
TEST_P(BackendConformanceTest, OnePositionGivesItsValueAsStored) {
  const HeadLayout heads = {.num_query_heads = 1, .num_kv_heads = 1, .head_dim = 4};
  const struct {
    KvFormat format;
    std::vector<float> value, stored;
  } kCases[] = {
      {KvFormat::kF32, {-1, 0, 0.3f, 1}, {-1, 0, 0.3f, 1}},
      {KvFormat::kBf16, {-1, 0, 0.3f, 1}, {-1, 0, 0.30078125f, 1}},
      // Steps of 1; ties go to the even one.
      {KvFormat::kInt8, {-127, 2.5f, 3.5f, -0.25f}, {-127, 2, 4, 0}},
      {KvFormat::kInt8, {0, 0, 1e-38f, 0}, {0, 0, 0, 0}},
      {KvFormat::kInt8, {0, 0, 254e30f, -1e30f}, {0, 0, 254e30f, 0}},
      // Codes 0, 127, 191, 255 of scale 1 and zero point 127.5.
      {KvFormat::kQwenInt8, {-127.5f, 0, 63.75f, 127.5f}, {-127.5f, -0.5f, 63.5f, 127.5f}},
      // The same over 127.5. Scale and zero point are rounded: in float, as with the original run
      // in float, the largest value falls to code 254.
      {KvFormat::kQwenInt8, {-1, 0, 0.5f, 1}, {-1, -0.0039215088f, 0.4980393f, 0.99215698f}},
      {KvFormat::kQwenInt8, {3, 3, 3, 3}, {3, 3, 3, 3}},
  };
  for (const auto& test : kCases) {
    AttentionProblem problem(7, heads, test.format, {1});
    KeepAsIs(problem);
    std::copy(test.value.begin(), test.value.end(), problem.qkv[0].begin() + 8);
    const AttentionResult actual = RunWhole(*cpu_, problem);
    for (int d = 0; d < 4; ++d) {
      EXPECT_NEAR(actual.out[0][d], test.stored[d], 4 * kFloatRounding * std::fabs(test.stored[d]))
          << KvFormatName(test.format) << " element " << d;
    }
  }
}

// Every format marks what is no number instead of hiding it in a code.
TEST_P(BackendConformanceTest, WhatIsNoNumberStaysNone) {
  for (KvFormat format : kAllKvFormats) {
    for (float bad : {std::nanf(""), INFINITY}) {
      AttentionProblem problem(8, TestHeadLayouts()[0], format, {40});
      KeepAsIs(problem);
      const HeadLayout& heads = problem.heads;
      problem.qkv[0][5 * heads.qkv_width() + heads.query_width() + heads.kv_width()] = bad;
      const AttentionResult actual = RunWhole(*cpu_, problem);
      EXPECT_FALSE(std::isfinite(actual.out[0][39 * heads.query_width()])) << KvFormatName(format);
      // Earlier positions don't see it, but with one scale for all tokens.
      EXPECT_EQ(std::isfinite(actual.out[0][0]), IsInvariant(format)) << KvFormatName(format);
    }
  }
}

TEST_P(BackendConformanceTest, NormRopeAndAttention) {
  uint32_t seed = 50;
  for (const HeadLayout& heads : TestHeadLayouts()) {
    for (bool norm : {false, true}) {
      AttentionProblem problem(++seed, heads, KvFormat::kF32, {20, 5, 40});
      problem.norm = norm;
      CompareAttention(problem, RunWhole(reference_, problem), RunWhole(*cpu_, problem), 0);
    }
  }
}

TEST_P(BackendConformanceTest, NormRopeAndAttentionInBf16) {
  // A key next to a rounding border may be stored as either neighbour: two roundings apart.
  AttentionProblem problem(90, TestHeadLayouts()[0], KvFormat::kBf16, {20, 5, 40});
  CompareAttention(problem, RunWhole(reference_, problem), RunWhole(*cpu_, problem),
                   2 * kBf16Rounding);
}

TEST(CpuBackendOptionsTest, RefusesWhatItCannotDo) {
  EXPECT_EQ(MakeCpuBackend({.isa = "sse9"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCpuBackend({.num_threads = 0}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCpuBackend({.num_threads = 2, .cpus = {0}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CpuIsaNameTest, NamesTheBestThatTheMachineHas) {
  EXPECT_EQ(*CpuIsaName("portable"), "portable");
  EXPECT_EQ(*CpuIsaName("auto"), AvailableIsas().back());
  EXPECT_EQ(CpuIsaName("").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CpuBackendMemoryTest, IsZeroedAlignedAndBounded) {
  std::unique_ptr<Backend> cpu = Cpu("auto");
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{1000}, size_t{5} << 20}) {
    absl::StatusOr<Buffer> buffer = cpu->Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(buffer->as<char>()[i], 0);
    if (bytes != 0) buffer->as<char>()[bytes - 1] = 1;
  }
  EXPECT_EQ(cpu->Allocate(SIZE_MAX).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cpu->Allocate(size_t{1} << 60).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(CudaBackendTest, SaysWhyThereIsNone) {
  const absl::Status status = MakeCudaBackend(CudaBackendOptions()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("CUDA"), absl::string_view::npos);
}

}  // namespace
}  // namespace qwenserve
