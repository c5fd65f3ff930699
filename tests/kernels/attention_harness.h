#ifndef QWENSERVE_TESTS_KERNELS_ATTENTION_HARNESS_H_
#define QWENSERVE_TESTS_KERNELS_ATTENTION_HARNESS_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "tests/kernels/device_array.h"
#include "tests/kernels/test_data.h"

namespace qwenserve {

// Some sequences' raw queries, keys and values, and a way to run them through a backend cut into
// steps at will.
struct AttentionProblem {
  AttentionProblem(uint32_t seed, HeadLayout layout, KvFormat format,
                   std::vector<int> sequence_lengths)
      : heads(layout), kv_format(format), lengths(std::move(sequence_lengths)) {
    Random random(seed);
    for (int length : lengths) {
      qkv.push_back(random.Normals(length * heads.qkv_width()));
      max_length = std::max(max_length, length);
    }
    q_norm = random.Normals(heads.head_dim);
    k_norm = random.Normals(heads.head_dim);
    max_blocks = (max_length + kKvBlockSize - 1) / kKvBlockSize + 1;
    blocks.resize(lengths.size() * max_blocks + 3);
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int32_t>(i);
    random.Shuffle(blocks);
    for (int table = 0; table < 2; ++table) {
      for (int p = 0; p < max_length; ++p) {
        for (int i = 0; i < heads.head_dim / 2; ++i) {
          // A point of the unit circle from basic operations only, so that the numbers are the same
          // everywhere.
          const double t = random.Normal();
          cos_sin[table].push_back(static_cast<float>((1 - t * t) / (1 + t * t)));
          cos_sin[table].push_back(static_cast<float>(2 * t / (1 + t * t)));
        }
      }
    }
    for (size_t s = 0; s < lengths.size(); ++s) {
      for (int p = 0; p < lengths[s]; ++p) {
        scales.push_back(1.0f + 0.01f * static_cast<float>(p % 7));
      }
    }
  }

  HeadLayout heads;
  KvFormat kv_format;
  std::vector<int> lengths;
  bool norm = true;
  int filling = 0;  // sequences of one row at position -1 behind those of each step
  std::vector<std::vector<float>> qkv;  // by sequence: [length, qkv_width]
  std::vector<float> q_norm, k_norm, cos_sin[2], scales;
  std::vector<int32_t> blocks;
  int max_length = 0;
  int64_t max_blocks = 0;
};

// Positions begin..end-1 of a sequence.
struct Chunk {
  int sequence = 0;
  int begin = 0;
  int end = 0;
};
using Step = std::vector<Chunk>;

// By sequence: the attention's result [length, query_width] and the queries after rotation.
struct AttentionResult {
  std::vector<std::vector<float>> out, queries;
};

class AttentionRunner {
 public:
  AttentionRunner(Backend& backend, const AttentionProblem& problem)
      : backend_(backend), problem_(problem) {
    const size_t bytes = backend.KvBytesPerBlock(problem.heads, problem.kv_format);
    memory_ = *backend.Allocate(bytes * problem.blocks.size());
    // What a block held before must not matter, not even when it was no number.
    const std::vector<char> garbage(memory_.bytes(), '\xff');
    backend.CopyToDevice(garbage.data(), garbage.size(), memory_.data());
    for (const std::vector<float>* values :
         {&problem.cos_sin[0], &problem.cos_sin[1], &problem.q_norm, &problem.k_norm}) {
      constants_.emplace_back(backend, *values);
    }
    for (int length : problem.lengths) {
      result_.out.emplace_back(length * problem.heads.query_width());
      result_.queries.emplace_back(length * problem.heads.query_width());
    }
  }

  void Run(const Step& step) {
    const HeadLayout& heads = problem_.heads;
    std::vector<int32_t> positions, sequences, row_starts = {0}, tables, rope_tables;
    std::vector<float> qkv, scales;
    for (size_t i = 0; i < step.size(); ++i) {
      const Chunk& chunk = step[i];
      for (int p = chunk.begin; p < chunk.end; ++p) {
        positions.push_back(p);
        sequences.push_back(static_cast<int32_t>(i));
        rope_tables.push_back(chunk.sequence % 2);
        scales.push_back(problem_.scales[p]);
        const float* row = &problem_.qkv[chunk.sequence][p * heads.qkv_width()];
        qkv.insert(qkv.end(), row, row + heads.qkv_width());
      }
      row_starts.push_back(static_cast<int32_t>(positions.size()));
      const auto first = problem_.blocks.begin() + chunk.sequence * problem_.max_blocks;
      tables.insert(tables.end(), first, first + problem_.max_blocks);
    }
    const int64_t rows = static_cast<int64_t>(positions.size());
    for (int i = 0; i < problem_.filling; ++i) {
      positions.push_back(-1);
      sequences.push_back(static_cast<int32_t>(step.size()) + i);
      rope_tables.push_back(0);
      scales.push_back(1.0f);
      qkv.insert(qkv.end(), heads.qkv_width(), 3.0f);
      row_starts.push_back(static_cast<int32_t>(positions.size()));
      tables.insert(tables.end(), problem_.max_blocks, 0);
    }
    const DeviceArray<int32_t> d_positions(backend_, positions), d_sequences(backend_, sequences),
        d_row_starts(backend_, row_starts), d_tables(backend_, tables),
        d_rope_tables(backend_, rope_tables);
    const DeviceArray<float> d_scales(backend_, scales), d_qkv(backend_, qkv);
    const AttentionBatch batch = {.num_rows = static_cast<int64_t>(positions.size()),
                                  .num_sequences = static_cast<int64_t>(row_starts.size()) - 1,
                                  .positions = d_positions.data(),
                                  .sequences = d_sequences.data(),
                                  .row_starts = d_row_starts.data(),
                                  .block_tables = d_tables.data(),
                                  .max_blocks = problem_.max_blocks,
                                  .rope_tables = d_rope_tables.data(),
                                  .query_scales = d_scales.data()};
    const KvLayer kv = {.data = memory_.data(),
                        .num_blocks = static_cast<int64_t>(problem_.blocks.size()),
                        .format = problem_.kv_format};
    const RopeTable rope[2] = {{constants_[0].data(), problem_.max_length},
                               {constants_[1].data(), problem_.max_length}};
    const float* q_norm = problem_.norm ? constants_[2].data() : nullptr;
    const float* k_norm = problem_.norm ? constants_[3].data() : nullptr;
    const DeviceActivations d_out(backend_,
                                  std::vector<float>(batch.num_rows * heads.query_width(), -7.0f));
    backend_.NormRopeStoreKv(batch, heads, q_norm, k_norm, 1e-6f, rope, d_qkv.data(), kv);
    backend_.PagedAttention(batch, heads, d_qkv.data(), kv, d_out.data());
    EXPECT_TRUE(backend_.Sync().ok());
    const std::vector<float> out = d_out.Download();
    qkv = d_qkv.Download();
    const int64_t width = heads.query_width();
    for (size_t i = rows * width; i < out.size(); ++i) EXPECT_EQ(out[i], 0.0f) << "filling";
    for (int64_t row = 0; row < rows; ++row) {
      const int sequence = step[sequences[row]].sequence;
      const size_t bytes = width * sizeof(float);
      std::memcpy(&result_.out[sequence][positions[row] * width], &out[row * width], bytes);
      std::memcpy(&result_.queries[sequence][positions[row] * width], &qkv[row * heads.qkv_width()],
                  bytes);
    }
  }

  const AttentionResult& result() const { return result_; }
  // The whole cache. Only what Run stored differs from byte 0xff.
  std::vector<char> Cache() const {
    std::vector<char> bytes(memory_.bytes());
    backend_.CopyToHost(memory_.data(), bytes.size(), bytes.data());
    return bytes;
  }

 private:
  Backend& backend_;
  const AttentionProblem& problem_;
  Buffer memory_;
  std::vector<DeviceArray<float>> constants_;  // rotations of both tables, norms of q and k
  AttentionResult result_;
};

// All sequences whole, in one step.
inline AttentionResult RunWhole(Backend& backend, const AttentionProblem& problem) {
  AttentionRunner runner(backend, problem);
  Step step;
  for (size_t s = 0; s < problem.lengths.size(); ++s) {
    step.push_back({static_cast<int>(s), 0, problem.lengths[s]});
  }
  runner.Run(step);
  return runner.result();
}

// Without norm and rotation, so that what is stored is exactly what the problem holds.
inline void KeepAsIs(AttentionProblem& problem) {
  problem.norm = false;
  for (auto& table : problem.cos_sin) {
    for (size_t i = 0; i < table.size(); ++i) table[i] = i % 2 == 0 ? 1.0f : 0.0f;
  }
}

// Heads of one KV group and of many, uneven shares of a tensor-parallel rank, odd head sizes.
inline std::vector<HeadLayout> TestHeadLayouts() {
  return {
      {.num_query_heads = 14, .num_kv_heads = 2, .head_dim = 64, .queries_per_kv = 7},
      {.num_query_heads = 3, .num_kv_heads = 3, .head_dim = 128, .queries_per_kv = 1},
      // Heads 5..9 of groups of 4: parts of groups 1 and 2.
      {.num_query_heads = 5,
       .num_kv_heads = 2,
       .head_dim = 32,
       .queries_per_kv = 4,
       .query_offset = 1},
      {.num_query_heads = 4,
       .num_kv_heads = 2,
       .head_dim = 24,
       .queries_per_kv = 3,
       .query_offset = 2},
      {.num_query_heads = 40, .num_kv_heads = 1, .head_dim = 16, .queries_per_kv = 40},
  };
}

// Likewise in the head sizes of released models.
inline std::vector<HeadLayout> ReleasedHeadLayouts() {
  return {
      {.num_query_heads = 5,
       .num_kv_heads = 2,
       .head_dim = 128,
       .queries_per_kv = 4,
       .query_offset = 1},
      {.num_query_heads = 16, .num_kv_heads = 1, .head_dim = 64, .queries_per_kv = 16},
      {.num_query_heads = 2, .num_kv_heads = 2, .head_dim = 64, .queries_per_kv = 1},
  };
}

// Those of both that the device has.
inline std::vector<HeadLayout> HeadLayoutsOf(const Backend& backend) {
  std::vector<HeadLayout> layouts;
  for (const auto& all : {TestHeadLayouts(), ReleasedHeadLayouts()}) {
    for (const HeadLayout& heads : all) {
      if (backend.SupportsKv(KvFormat::kBf16, heads).ok()) layouts.push_back(heads);
    }
  }
  return layouts;
}

inline std::vector<KvFormat> KvFormatsOf(const Backend& backend, const HeadLayout& heads) {
  std::vector<KvFormat> formats;
  for (KvFormat format : kAllKvFormats) {
    if (backend.SupportsKv(format, heads).ok()) formats.push_back(format);
  }
  return formats;
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_ATTENTION_HARNESS_H_
