// Every op, on every device and in every format, against the reference. Tolerances are error bounds
// computed from the inputs: a chain of n roundings of float is off by at most n * 2^-24 of the sum
// of its terms' magnitudes. Where activations are bf16, both sides get inputs that bf16 has, and a
// result that is an activation is off by one rounding to bf16 more.
#include <algorithm>
#include <cmath>

#include "tests/kernels/attention_harness.h"
#include "tests/kernels/reference_backend.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/test_device.h"

namespace qwenserve {
namespace {

class BackendConformanceTest : public DeviceTest {
 protected:
  // Of one rounding to an activation.
  double ActivationError() const { return Rounds() ? kBf16Rounding : 0; }
  // What a chain is off by, in roundings: tensor cores add products that they have cut off at the
  // end of the largest one's 24 bits, an error of up to two roundings instead of one.
  double ChainError() const { return Rounds() ? 2 * kFloatRounding : kFloatRounding; }

  ReferenceBackend reference_;
  HostOps oracle_{reference_};
  Random random_{1};
};

QS_INSTANTIATE_FOR_TEST_DEVICES(BackendConformanceTest);

TEST_P(BackendConformanceTest, LinearIsWithinTheRoundingOfItsChain) {
  struct Shape {
    int64_t rows, out, in;
  };
  // Below, at and above the borders of tiles, panels, row blocks and depth blocks.
  const Shape shapes[] = {{1, 16, 8},    {1, 75, 300},   {2, 33, 257},  {3, 40, 64},
                          {5, 17, 96},   {12, 47, 33},   {13, 31, 40},  {37, 64, 513},
                          {14, 30, 600}, {241, 18, 256}, {30, 95, 901}, {14, 33, 5200}};
  for (DType dtype : WeightTypes(*device_)) {
    for (const Shape& shape : shapes) {
      if (shape.rows * shape.out * shape.in > MaxTestWork()) continue;
      for (bool with_bias : {false, true}) {
        const HostMatrix given(random_, dtype, shape.out, shape.in);
        std::vector<float> x = AsActivations(*device_, random_.Normals(shape.rows * shape.in));
        std::vector<float> bias = random_.Normals(shape.out);
        if (!with_bias) bias.clear();
        const LinearWeight weight = given.Pack(*device_);
        const HostMatrix matrix = given.AsPacked(weight);
        const std::vector<float> actual = ops_->Linear(x, shape.rows, weight, bias);
        // The CPU's dots of bf16 round the inputs first.
        for (float& v : x) v = DotsBf16(*device_, dtype) ? Bf16ToFloat(FloatToBf16(v)) : v;
        const std::vector<float> expected =
            oracle_.Linear(x, shape.rows, matrix.Pack(reference_), bias);
        for (int64_t r = 0; r < shape.rows; ++r) {
          for (int64_t o = 0; o < shape.out; ++o) {
            double terms = with_bias ? std::fabs(bias[o]) : 0.0;
            for (int64_t i = 0; i < shape.in; ++i) {
              terms += std::fabs(x[r * shape.in + i] * matrix.At(o, i));
            }
            const double tolerance = static_cast<double>(shape.in + 2) * ChainError() * terms;
            ASSERT_NEAR(actual[r * shape.out + o], expected[r * shape.out + o], tolerance)
                << DTypeName(dtype) << " row " << r << " column " << o;
          }
        }
      }
    }
  }
}

TEST_P(BackendConformanceTest, PackLinearJoinsBlocksAndSlicesRows) {
  for (DType dtype : WeightTypes(*device_)) {
    const HostMatrix matrix(random_, dtype, 50, 24);
    // Rows 7..29 and 40..49, columns 5..14 of each.
    RowBlock blocks[2] = {matrix.Rows(7, 23), matrix.Rows(40, 10)};
    for (RowBlock& block : blocks) {
      block.data = static_cast<const char*>(block.data) + 5 * DTypeBytes(dtype);
    }
    absl::StatusOr<LinearWeight> weight = device_->PackLinear(blocks, 10);
    ASSERT_TRUE(weight.ok()) << weight.status();
    EXPECT_EQ(weight->out_features, 33);
    EXPECT_EQ(weight->in_features, 10);
    const HostMatrix kept = matrix.AsPacked(*weight);
    std::vector<int32_t> ids(33);
    for (int i = 0; i < 33; ++i) ids[i] = i;
    const std::vector<float> rows = ops_->Embed(ids, *weight, 0);
    for (int r = 0; r < 33; ++r) {
      for (int c = 0; c < 10; ++c) {
        ASSERT_EQ(rows[r * 10 + c], kept.At(r < 23 ? 7 + r : 17 + r, 5 + c)) << r << " " << c;
      }
    }
  }
}

TEST_P(BackendConformanceTest, EmbedIsExactAndZeroOutsideTheTable) {
  for (DType dtype : WeightTypes(*device_)) {
    const HostMatrix given(random_, dtype, 100, 40);
    const std::vector<int32_t> ids = {250, 200, 299, 300, 199, 0, 237};
    const LinearWeight weight = given.Pack(*device_);
    const HostMatrix matrix = given.AsPacked(weight);
    const std::vector<float> actual = ops_->Embed(ids, weight, 200);
    EXPECT_EQ(actual, oracle_.Embed(ids, matrix.Pack(reference_), 200));
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
    // Sum of squares by 8 lanes and a tree, halved by the root, plus the remaining operations.
    const double relative = (static_cast<double>(width) / 8 + 8) / 2 * kFloatRounding +
                            6 * kFloatRounding + ActivationError();
    const auto compare = [&](const std::vector<float>& actual, const std::vector<float>& expected) {
      for (int64_t i = 0; i < rows * width; ++i) {
        ASSERT_NEAR(actual[i], expected[i], relative * std::fabs(expected[i]));
      }
    };
    compare(ops_->RmsNorm(x, rows, weight, 1e-6f), oracle_.RmsNorm(x, rows, weight, 1e-6f));
    const std::vector<float> expected =
        oracle_.AddRmsNorm(x, rows, &expected_residual, weight, 1e-6f);
    const std::vector<float> actual = ops_->AddRmsNorm(x, rows, &residual, weight, 1e-6f);
    EXPECT_EQ(residual, expected_residual);
    compare(actual, expected);
  }
}

// Of what silu(gate) * up is off by.
double SiluMulTolerance(double gate, double up, double expected) {
  // Four roundings of exp, three of the rest, and those of its argument; and exp ends at 2^127
  // instead of infinity.
  return (7 + 2 * std::fabs(gate)) * kFloatRounding * std::fabs(expected) +
         std::fabs(gate * up) * 0x1p-126;
}

TEST_P(BackendConformanceTest, SiluMul) {
  for (int64_t width : {1, 13, 512, 1000}) {
    const int64_t rows = 17;
    std::vector<float> gate_up = random_.Normals(rows * 2 * width, 20.0f);
    for (size_t i = 0; i < gate_up.size(); i += 97) gate_up[i] *= 1000;
    const std::vector<float> expected = oracle_.SiluMul(gate_up, rows, width);
    const std::vector<float> actual = ops_->SiluMul(gate_up, rows, width);
    for (int64_t i = 0; i < rows * width; ++i) {
      const double up = gate_up[i / width * 2 * width + width + i % width];
      const double gate = gate_up[i / width * 2 * width + i % width];
      const double tolerance =
          SiluMulTolerance(gate, up, expected[i]) + ActivationError() * std::fabs(expected[i]);
      ASSERT_NEAR(actual[i], expected[i], tolerance) << gate << " " << up;
    }
  }
}

// However it is fused: the same as its parts.
TEST_P(BackendConformanceTest, LinearSwiGlu) {
  for (int64_t rows : {1, 3, 9, 40}) {
    const int64_t in = 256, width = 96;
    if (rows * in * 2 * width > MaxTestWork()) continue;
    const HostMatrix matrix(random_, DType::kBf16, 2 * width, in);
    const LinearWeight weight = matrix.Pack(*device_);
    const std::vector<float> x = AsActivations(*device_, random_.Normals(rows * in, 0.3f));
    const std::vector<float> parts = ops_->Linear(x, rows, weight);
    const std::vector<float> expected = oracle_.SiluMul(parts, rows, width);
    const std::vector<float> actual = ops_->LinearSwiGlu(x, rows, weight);
    for (int64_t i = 0; i < rows * width; ++i) {
      const double gate = parts[i / width * 2 * width + i % width];
      const double up = parts[i / width * 2 * width + width + i % width];
      const double tolerance =
          SiluMulTolerance(gate, up, expected[i]) + ActivationError() * std::fabs(expected[i]);
      ASSERT_NEAR(actual[i], expected[i], tolerance) << gate << " " << up;
    }
  }
}

TEST_P(BackendConformanceTest, GatherRows) {
  const std::vector<int32_t> rows = {8, 0, 3, 3};
  for (int64_t width : {5, 64}) {
    const std::vector<float> x = AsActivations(*device_, random_.Normals(9 * width));
    EXPECT_EQ(ops_->GatherRows(x, width, rows), oracle_.GatherRows(x, width, rows));
  }
}

TEST_P(BackendConformanceTest, TakeDrawnReplacesWhatIsNegative) {
  EXPECT_EQ(ops_->TakeDrawn({40, -1, 42}, {7, -1, -3, 0, -2}),
            (std::vector<int32_t>{7, 40, 42, 0, 0}));
}

// Compares attention and rotated queries of all rows. key_error: relative error of a stored key;
// operand_error: likewise of what products of attention round their operands by.
void CompareAttention(const AttentionProblem& problem, const AttentionResult& expected,
                      const AttentionResult& actual, double key_error, double operand_error) {
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
        const double score_error = score * (key_error + operand_error + rotated +
                                            static_cast<double>(dim + 4) * 2 * kFloatRounding);
        // Each probability is off by a factor exp(+-2 score_error), its rounding as an operand, and
        // the roundings of a sum.
        const double relative = std::expm1(2 * score_error) + operand_error +
                                static_cast<double>(2 * p + 40) * kFloatRounding;
        for (int64_t d = 0; d < dim; ++d) {
          const int64_t i = p * width + h * dim + d;
          const double rounded = operand_error * std::fabs(expected.out[s][i]);
          ASSERT_NEAR(actual.out[s][i], expected.out[s][i], relative * 2 * max_value + rounded)
              << "sequence " << s << " position " << p << " head " << h << " element " << d;
        }
      }
    }
  }
}

TEST_P(BackendConformanceTest, AttentionOfStoredKeys) {
  // Without norm and rotation both caches hold the same numbers, so that only attention differs.
  uint32_t seed = 1;
  for (const HeadLayout& heads : HeadLayoutsOf(*device_)) {
    for (KvFormat format : KvFormatsOf(*device_, heads)) {
      AttentionProblem problem(++seed, heads, format, {1, 16, 17, 70, 33});
      KeepAsIs(problem);
      // A quantised key is its code times its scale, both here and there: a rounding or two.
      CompareAttention(problem, RunWhole(reference_, problem), RunWhole(*device_, problem),
                       4 * kFloatRounding, ActivationError());
    }
  }
}

TEST_P(BackendConformanceTest, AttentionOverManySegments) {
  // Up to and beyond the borders at 256 and 512 positions, in one prefill and in decode.
  uint32_t seed = 30;
  std::vector<HeadLayout> layouts = HeadLayoutsOf(*device_);
  std::sort(layouts.begin(), layouts.end(), [](const HeadLayout& a, const HeadLayout& b) {
    return a.query_width() < b.query_width();
  });
  layouts.resize(2);
  for (const HeadLayout& heads : layouts) {
    for (KvFormat format : KvFormatsOf(*device_, heads)) {
      AttentionProblem problem(++seed, heads, format, {256, 530, 257});
      KeepAsIs(problem);
      if (530 * 530 * heads.query_width() > MaxTestWork()) continue;
      const AttentionResult expected = RunWhole(reference_, problem);
      CompareAttention(problem, expected, RunWhole(*device_, problem), 4 * kFloatRounding,
                       ActivationError());
    }
  }
}

TEST_P(BackendConformanceTest, RowsOfFillingChangeNothing) {
  const HeadLayout heads = TestHeadLayouts()[2];
  for (KvFormat format : KvFormatsOf(*device_, heads)) {
    AttentionProblem problem(50, heads, format, {1, 40, 17});
    AttentionProblem filled = problem;
    filled.filling = 5;
    for (Backend* backend : {device_.get(), static_cast<Backend*>(&reference_)}) {
      AttentionRunner alone(*backend, problem), together(*backend, filled);
      const Step steps[] = {{{0, 0, 1}, {1, 0, 39}, {2, 0, 16}}, {{1, 39, 40}, {2, 16, 17}}};
      for (const Step& step : steps) {
        alone.Run(step);
        together.Run(step);
      }
      EXPECT_EQ(together.result().out, alone.result().out);
      EXPECT_TRUE(together.Cache() == alone.Cache());
    }
  }
}

// softmax over one position is 1, so the result is the value as it is stored.
TEST_P(BackendConformanceTest, OnePositionGivesItsValueAsStored) {
  HeadLayout heads = {.num_query_heads = 1, .num_kv_heads = 1, .head_dim = 4};
  if (!device_->SupportsKv(KvFormat::kBf16, heads).ok()) heads.head_dim = 64;
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
    if (!device_->SupportsKv(test.format, heads).ok()) continue;
    AttentionProblem problem(7, heads, test.format, {1});
    KeepAsIs(problem);
    const int dim = heads.head_dim;
    for (int d = 0; d < dim; ++d) problem.qkv[0][2 * dim + d] = test.value[d % 4];
    const AttentionResult actual = RunWhole(*device_, problem);
    for (int d = 0; d < dim; ++d) {
      const double stored = test.stored[d % 4];
      EXPECT_NEAR(actual.out[0][d], stored,
                  (4 * kFloatRounding + ActivationError()) * std::fabs(stored))
          << KvFormatName(test.format) << " element " << d;
    }
  }
}

// Every format marks what is no number instead of hiding it in a code.
TEST_P(BackendConformanceTest, WhatIsNoNumberStaysNone) {
  const HeadLayout layout = TestHeadLayouts()[0];
  for (KvFormat format : KvFormatsOf(*device_, layout)) {
    for (float bad : {std::nanf(""), INFINITY}) {
      AttentionProblem problem(8, layout, format, {40});
      KeepAsIs(problem);
      const HeadLayout& heads = problem.heads;
      problem.qkv[0][5 * heads.qkv_width() + heads.query_width() + heads.kv_width()] = bad;
      const AttentionResult actual = RunWhole(*device_, problem);
      EXPECT_FALSE(std::isfinite(actual.out[0][39 * heads.query_width()])) << KvFormatName(format);
      // Earlier positions don't see it, but with one scale for all tokens.
      EXPECT_EQ(std::isfinite(actual.out[0][0]), IsInvariant(format)) << KvFormatName(format);
    }
  }
}

TEST_P(BackendConformanceTest, NormRopeAndAttention) {
  uint32_t seed = 50;
  for (const HeadLayout& heads : HeadLayoutsOf(*device_)) {
    const bool exact = device_->SupportsKv(KvFormat::kF32, heads).ok();
    for (bool norm : {false, true}) {
      // A key next to a rounding border may be stored as either neighbour: two roundings apart.
      AttentionProblem problem(++seed, heads, exact ? KvFormat::kF32 : KvFormat::kBf16,
                               {20, 5, 40});
      problem.norm = norm;
      CompareAttention(problem, RunWhole(reference_, problem), RunWhole(*device_, problem),
                       exact ? 0 : 2 * kBf16Rounding, ActivationError());
    }
  }
}

TEST_P(BackendConformanceTest, NormRopeAndAttentionInBf16) {
  AttentionProblem problem(90, TestHeadLayouts()[0], KvFormat::kBf16, {20, 5, 40});
  CompareAttention(problem, RunWhole(reference_, problem), RunWhole(*device_, problem),
                   2 * kBf16Rounding, ActivationError());
}

TEST_P(BackendConformanceTest, MemoryIsZeroedAlignedAndBounded) {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{1000}, size_t{5} << 20}) {
    absl::StatusOr<Buffer> buffer = device_->Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    std::vector<char> held(bytes, 1);
    device_->CopyToHost(buffer->data(), bytes, held.data());
    EXPECT_EQ(held, std::vector<char>(bytes, 0));
    held.assign(bytes, 1);
    device_->CopyToDevice(held.data(), bytes, buffer->data());
    ASSERT_TRUE(device_->Sync().ok());
  }
  EXPECT_EQ(device_->Allocate(SIZE_MAX).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(device_->Allocate(size_t{1} << 60).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace qwenserve
