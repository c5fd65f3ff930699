// Attention against a reference in double over the cache as it was stored, and against itself: a
// row has the same bits however its sequence is cut into steps.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "tests/kernels/cuda/attention/gpu_attention_harness.h"

namespace qwenserve {
namespace {

class GpuAttentionTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto gpu = MakeGpuUnderTest(GetParam());
    if (absl::IsNotFound(gpu.status())) GTEST_SKIP() << gpu.status().message();
    ASSERT_TRUE(gpu.ok()) << gpu.status();
    gpu_ = *std::move(gpu);
  }
  GpuUnderTest gpu_;
};

INSTANTIATE_TEST_SUITE_P(Devices, GpuAttentionTest, testing::ValuesIn(kGpusUnderTest),
                         [](const auto& info) { return info.param; });

constexpr KvFormat kFormats[] = {KvFormat::kBf16, KvFormat::kInt8};

HeadLayout Grouped(int kv_heads, int group, int head_dim) {
  return {.num_query_heads = kv_heads * group,
          .num_kv_heads = kv_heads,
          .head_dim = head_dim,
          .queries_per_kv = group};
}

// One row and query head. Queries are rounded as the kernels do; what then differs is the rounding
// of probabilities (times the values' scales) and of the result to bf16, and that of sums of float.
void CheckRow(GpuAttentionRunner& runner, const AttentionProblem& problem, int sequence,
              int position, int head) {
  const HeadLayout& heads = problem.heads;
  const int dim = heads.head_dim, kv_head = (head + heads.query_offset) / heads.queries_per_kv;
  const int64_t at = position * heads.query_width() + int64_t{head} * dim;
  const float scale = static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(dim)));
  std::vector<double> q(dim), p(position + 1);
  for (int d = 0; d < dim; ++d) {
    q[d] = Bf16ToFloat(FloatToBf16(runner.result().queries[sequence][at + d] * scale));
  }
  double largest = -INFINITY, total = 0, score_error = 0;
  for (int t = 0; t <= position; ++t) {
    double magnitudes = 0;
    for (int d = 0; d < dim; ++d) {
      const double term = q[d] * runner.Cached(sequence, t, kv_head, d, false);
      p[t] += term;
      magnitudes += std::fabs(term);
    }
    largest = std::max(largest, p[t]);
    // The tensor cores of a GPU cut sums off: two units for each of the chain.
    score_error = std::max(score_error, (2 * dim + 8) * kFloatRounding * magnitudes);
  }
  for (double& x : p) total += x = std::exp2(x - largest);
  const double relative = kBf16Rounding + 2 * std::expm1(2 * score_error * std::numbers::ln2) +
                          (2 * position + 100) * kFloatRounding;
  for (int d = 0; d < dim; ++d) {
    double sum = 0, magnitudes = 0;
    for (int t = 0; t <= position; ++t) {
      const double term = p[t] / total * runner.Cached(sequence, t, kv_head, d, true);
      sum += term;
      magnitudes += std::fabs(term);
    }
    ASSERT_NEAR(runner.result().out[sequence][at + d], sum,
                relative * magnitudes + kBf16Rounding * 1.01 * std::fabs(sum) + 1e-30)
        << "sequence " << sequence << " position " << position << " head " << head << " dim " << d;
  }
}

// Rows near the borders of blocks, segments and tiles, and some others.
void CheckRows(GpuAttentionRunner& runner, const AttentionProblem& problem) {
  for (size_t s = 0; s < problem.lengths.size(); ++s) {
    const int length = problem.lengths[s];
    for (int position = 0; position < length; ++position) {
      const int in_segment = (position + 2) % kGpuSegment;
      if (in_segment > 4 && position % 23 != 0 && position + 1 != length) continue;
      for (int head = 0; head < problem.heads.num_query_heads; ++head) {
        CheckRow(runner, problem, static_cast<int>(s), position, head);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(GpuAttentionTest, PrefillOfEveryLayoutAndFormat) {
  std::vector<HeadLayout> layouts = {Grouped(1, 1, 128), Grouped(1, 2, 64),  Grouped(1, 4, 128),
                                     Grouped(1, 5, 64),  Grouped(2, 7, 64),  Grouped(1, 8, 128),
                                     Grouped(1, 12, 64), Grouped(1, 40, 16), Grouped(1, 3, 48),
                                     Grouped(1, 2, 96)};
  // Heads 5..9 of groups of 4: parts of groups 1 and 2.
  layouts.push_back({.num_query_heads = 5,
                     .num_kv_heads = 2,
                     .head_dim = 32,
                     .queries_per_kv = 4,
                     .query_offset = 1});
  uint32_t seed = 0;
  for (const HeadLayout& heads : layouts) {
    for (KvFormat format : kFormats) {
      AttentionProblem problem(++seed, heads, format, {1, 16, 17, 40, 2});
      problem.norm = seed % 4 < 2;
      GpuAttentionRunner runner(gpu_, problem);
      runner.Run(WholeStep(problem));
      CheckRows(runner, problem);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(GpuAttentionTest, PrefillAcrossSegments) {
  uint32_t seed = 100;
  for (int head_dim : {64, 128}) {
    for (KvFormat format : kFormats) {
      AttentionProblem problem(++seed, Grouped(1, 1, head_dim), format, {257, 15, 128, 300});
      GpuAttentionRunner runner(gpu_, problem);
      runner.Run(WholeStep(problem));
      CheckRows(runner, problem);
      if (HasFatalFailure()) return;
    }
  }
}

// Decode of the last positions after a prefill of the others, some of them filled up with rows that
// don't exist; the rows are cut into parts in several ways.
TEST_P(GpuAttentionTest, DecodeHasTheBitsOfPrefill) {
  uint32_t seed = 200;
  for (const HeadLayout& heads :
       {Grouped(1, 1, 128), Grouped(2, 7, 64), Grouped(1, 8, 128), Grouped(1, 20, 32)}) {
    for (KvFormat format : kFormats) {
      const int longest = heads.num_query_heads == 1 ? 600 : 140;
      AttentionProblem problem(++seed, heads, format, {longest, 257, 256, 18, 255, 129});
      GpuAttentionRunner whole(gpu_, problem);
      whole.Run(WholeStep(problem));
      GpuAttentionOptions options;
      // Whole rows by one block; short runs; with few records, long runs; no more than one.
      const int64_t parts = 6 * heads.num_kv_heads * (heads.queries_per_kv > 16 ? 2 : 1);
      options.wanted_blocks = parts * (1 + seed % 5);
      options.workspace_bytes = size_t{6} * heads.num_query_heads * PartialFloats(heads.head_dim) *
                                4 * (seed % 3 == 0 ? 2 : 5);
      GpuAttentionRunner cut(gpu_, problem, options);
      Step prompt, last, decode;
      for (int s = 0; s < 6; ++s) {
        prompt.push_back({s, 0, problem.lengths[s] - 2});
        last.push_back({s, problem.lengths[s] - 2, problem.lengths[s] - 1});
        decode.push_back({s, problem.lengths[s] - 1, problem.lengths[s]});
      }
      cut.Run(prompt);
      cut.Run(last);  // by sequence: nobody said that there is one row of each
      cut.Run(decode, true, 3);
      EXPECT_EQ(cut.result().queries, whole.result().queries);
      EXPECT_EQ(cut.cache(), whole.cache());
      ASSERT_EQ(cut.result().out, whole.result().out) << "layout " << seed;
      CheckRows(cut, problem);
      if (HasFatalFailure()) return;
    }
  }
}

// A long row by one block, and by many with much or little room for what they leave to each other.
TEST_P(GpuAttentionTest, DecodeIsCutInManyWays) {
  uint32_t seed = 250;
  for (const HeadLayout& heads : {Grouped(1, 1, 64), Grouped(2, 5, 128)}) {
    for (KvFormat format : kFormats) {
      AttentionProblem problem(++seed, heads, format, {1400, 200});
      GpuAttentionRunner runner(gpu_, problem, {.wanted_blocks = 1});
      const Step decode = {{0, 1399, 1400}, {1, 199, 200}};
      runner.Run({{0, 0, 1399}, {1, 0, 199}}, false, 0, false);
      runner.Run(decode, true);
      CheckRow(runner, problem, 0, 1399, heads.num_query_heads - 1);
      if (HasFatalFailure()) return;
      const AttentionResult expected = runner.result();
      const size_t slot = size_t{2} * heads.num_query_heads * PartialFloats(heads.head_dim) * 4;
      for (int blocks : {2, 3, 7, 20}) {
        for (size_t slots : {1, 2, 5, 30}) {
          runner.SetOptions(
              {.workspace_bytes = slots * slot, .wanted_blocks = 2 * heads.num_kv_heads * blocks});
          for (int again = 0; again < 2; ++again) {
            runner.Run(decode, again == 0);
            ASSERT_EQ(runner.result().out, expected.out) << blocks << " blocks, " << slots;
          }
        }
      }
    }
  }
}

TEST_P(GpuAttentionTest, ChunksHaveTheBitsOfOnePrefill) {
  uint32_t seed = 300;
  for (KvFormat format : kFormats) {
    AttentionProblem problem(++seed, Grouped(1, 3, 64), format, {300, 1, 150, 33});
    GpuAttentionRunner whole(gpu_, problem);
    whole.Run(WholeStep(problem));
    Random random(seed);
    for (int trial = 0; trial < 2; ++trial) {
      GpuUnderTest other = *MakeGpuUnderTest(GetParam(), 50 + trial);
      GpuAttentionRunner cut(other, problem);
      std::vector<int> done(problem.lengths.size());
      for (bool more = true; more;) {
        Step step;
        more = false;
        for (size_t i = 0; i < done.size(); ++i) {
          const int s = static_cast<int>((i + trial) % done.size());
          // Decode rows beside chunks of prefill, and sequences that sit out a step.
          const int count = std::min<int>(problem.lengths[s] - done[s],
                                          random.Below(3) == 0 ? 1 : random.Below(120));
          if (count > 0) step.push_back({s, done[s], done[s] + count});
          done[s] += count;
          more = more || done[s] < problem.lengths[s];
        }
        if (!step.empty()) cut.Run(step);
      }
      ASSERT_EQ(cut.result().out, whole.result().out);
      ASSERT_EQ(cut.cache(), whole.cache());
    }
  }
}

// What is no number reaches the rows that see it and no others, although they are in one tile.
TEST_P(GpuAttentionTest, WhatIsNoNumberStaysNone) {
  for (KvFormat format : kFormats) {
    for (bool value : {false, true}) {
      for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
        AttentionProblem problem(8, Grouped(2, 2, 64), format, {40, 3});
        KeepAsIs(problem);
        const HeadLayout& heads = problem.heads;
        problem
            .qkv[0][5 * heads.qkv_width() + heads.query_width() + (value ? heads.kv_width() : 0)] =
            bad;
        GpuAttentionRunner runner(gpu_, problem);
        runner.Run(WholeStep(problem));
        const auto finite = [&](int sequence, int position, int head) {
          for (int d = 0; d < heads.head_dim; ++d) {
            const int64_t at = position * heads.query_width() + head * heads.head_dim + d;
            if (!std::isfinite(runner.result().out[sequence][at])) return false;
          }
          return true;
        };
        for (int head = 0; head < 4; ++head) {
          EXPECT_TRUE(finite(0, 4, head)) << KvFormatName(format);
          EXPECT_TRUE(finite(1, 2, head));
          // An infinite key may take away all of a query's score.
          if (head < 2 && (value || std::isnan(bad) || format == KvFormat::kInt8)) {
            EXPECT_FALSE(finite(0, 5, head)) << KvFormatName(format) << " " << bad;
            EXPECT_FALSE(finite(0, 39, head));
          }
          if (head >= 2) {
            EXPECT_TRUE(finite(0, 39, head));
          }
        }
      }
    }
  }
}

TEST_P(GpuAttentionTest, NamesWhatItDoesNotDo) {
  auto attention = GpuAttention::Create(*gpu_.device, gpu_.kernels, {.workspace_bytes = 1024});
  ASSERT_TRUE(attention.ok());
  EXPECT_TRUE((*attention)->SupportsKv(KvFormat::kBf16, Grouped(2, 7, 64)).ok());
  EXPECT_TRUE((*attention)->SupportsKv(KvFormat::kInt8, Grouped(2, 1, 128)).ok());
  const absl::Status f32 = (*attention)->SupportsKv(KvFormat::kF32, Grouped(2, 7, 64));
  EXPECT_EQ(f32.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(f32.message().find("bf16 or int8"), absl::string_view::npos);
  EXPECT_FALSE((*attention)->SupportsKv(KvFormat::kQwenInt8, Grouped(2, 7, 64)).ok());
  for (int head_dim : {24, 72, 144, 256}) {
    const absl::Status status = (*attention)->SupportsKv(KvFormat::kBf16, Grouped(2, 7, head_dim));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_NE(status.message().find(std::to_string(head_dim)), absl::string_view::npos);
  }
}

}  // namespace
}  // namespace qwenserve
