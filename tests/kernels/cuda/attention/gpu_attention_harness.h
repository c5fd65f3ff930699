#ifndef QWENSERVE_TESTS_KERNELS_CUDA_ATTENTION_GPU_ATTENTION_HARNESS_H_
#define QWENSERVE_TESTS_KERNELS_CUDA_ATTENTION_GPU_ATTENTION_HARNESS_H_

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/attention/gpu_attention.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "tests/kernels/attention_harness.h"

namespace qwenserve {

struct GpuUnderTest {
  std::unique_ptr<GpuDevice> device;
  AttentionKernels kernels;
};

// "simt", or "cuda": NOT_FOUND when there is no GPU, or no kernels for one in this build.
absl::StatusOr<GpuUnderTest> MakeGpuUnderTest(const std::string& name, uint64_t seed = 1);

// What GoogleTest instantiates suites with.
inline const char* const kGpusUnderTest[] = {"simt", "cuda"};

// A problem's sequences on a device, run through GpuAttention cut into steps at will.
class GpuAttentionRunner {
 public:
  GpuAttentionRunner(GpuUnderTest& gpu, const AttentionProblem& problem,
                     const GpuAttentionOptions& options = {})
      : device_(*gpu.device),
        kernels_(gpu.kernels),
        problem_(problem),
        layout_{problem.heads.head_dim, problem.kv_format == KvFormat::kInt8} {
    auto attention = GpuAttention::Create(device_, gpu.kernels, options);
    EXPECT_TRUE(attention.ok()) << attention.status();
    attention_ = *std::move(attention);
    EXPECT_EQ(attention_->KvBytesPerBlock(problem.heads, problem.kv_format),
              static_cast<size_t>(layout_.block_bytes(problem.heads.num_kv_heads)));
    // What a block held before must not matter, not even when it was no number.
    memory_ = Upload(std::vector<char>(
        problem.blocks.size() * layout_.block_bytes(problem.heads.num_kv_heads), '\xff'));
    for (int length : problem.lengths) {
      result_.out.emplace_back(length * problem.heads.query_width());
      result_.queries.emplace_back(length * problem.heads.query_width());
    }
  }

  // decode: as a step of one row per sequence, filled up with `padding` rows at position -1.
  // attend: or only store keys and values.
  void Run(const Step& step, bool decode = false, int padding = 0, bool attend = true) {
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
    const auto rows = static_cast<int64_t>(positions.size());
    // What filling rows hold is not for anybody to look at.
    positions.resize(rows + padding, -1);
    sequences.resize(rows + padding, 0x7fffffff);
    rope_tables.resize(rows + padding, 0x7fffffff);
    scales.resize(rows + padding, NAN);
    qkv.resize(positions.size() * heads.qkv_width(), NAN);

    const Buffer d_positions = Upload(positions), d_sequences = Upload(sequences);
    const Buffer d_row_starts = Upload(row_starts), d_tables = Upload(tables);
    const Buffer d_rope_tables = Upload(rope_tables), d_scales = Upload(scales);
    const Buffer d_qkv = Upload(qkv);
    const Buffer cos_sin[2] = {Upload(problem_.cos_sin[0]), Upload(problem_.cos_sin[1])};
    const Buffer q_norm = Upload(problem_.q_norm), k_norm = Upload(problem_.k_norm);
    const Buffer out =
        Upload(std::vector<uint16_t>(positions.size() * heads.query_width(), 0x7fff));
    const AttentionBatch batch = {.num_rows = rows + padding,
                                  .num_sequences = static_cast<int64_t>(step.size()),
                                  .max_sequence_rows = decode ? 1 : 0,
                                  .positions = d_positions.as<int32_t>(),
                                  .sequences = d_sequences.as<int32_t>(),
                                  .row_starts = d_row_starts.as<int32_t>(),
                                  .block_tables = d_tables.as<int32_t>(),
                                  .max_blocks = problem_.max_blocks,
                                  .rope_tables = d_rope_tables.as<int32_t>(),
                                  .query_scales = d_scales.as<float>()};
    const KvLayer kv = {.data = memory_.data(),
                        .num_blocks = static_cast<int64_t>(problem_.blocks.size()),
                        .format = problem_.kv_format};
    const RopeTable rope[2] = {{cos_sin[0].as<float>(), problem_.max_length},
                               {cos_sin[1].as<float>(), problem_.max_length}};
    attention_->NormRopeStoreKv(batch, heads, problem_.norm ? q_norm.as<float>() : nullptr,
                                problem_.norm ? k_norm.as<float>() : nullptr, 1e-6f, rope,
                                d_qkv.as<float>(), kv);
    if (!attend) return;
    attention_->PagedAttention(batch, heads, d_qkv.as<float>(), kv, out.data());
    std::vector<uint16_t> result(positions.size() * heads.query_width());
    Download(out, result);
    Download(d_qkv, qkv);
    Keep(step, positions, sequences, result, qkv);
  }

  // From now on with other options.
  void SetOptions(const GpuAttentionOptions& options) {
    attention_ = *GpuAttention::Create(device_, kernels_, options);
  }

  // The cached element d of a key (or value), as the number that it stands for.
  float Cached(int sequence, int position, int kv_head, int d, bool value) {
    if (cache_.empty()) {
      cache_.resize(memory_.bytes());
      Download(memory_, cache_);
    }
    const int block = problem_.blocks[sequence * problem_.max_blocks + position / kKvBlockSize];
    const int slot = position % kKvBlockSize;
    const char* head = cache_.data() + block * layout_.block_bytes(problem_.heads.num_kv_heads) +
                       kv_head * layout_.head_bytes();
    const char* row = head + (value ? layout_.value_offset(slot) : layout_.key_offset(slot));
    if (!layout_.int8) {
      uint16_t bits;
      std::memcpy(&bits, row + 2 * d, sizeof(bits));
      return Bf16ToFloat(bits);
    }
    float scale;
    std::memcpy(&scale,
                head + (value ? layout_.value_scale_offset(slot) : layout_.key_scale_offset(slot)),
                sizeof(scale));
    return static_cast<float>(static_cast<int8_t>(row[d])) * scale;
  }

  const AttentionResult& result() const { return result_; }
  const std::vector<char>& cache() {
    Cached(0, 0, 0, 0, false);
    return cache_;
  }

 private:
  template <typename T>
  Buffer Upload(const std::vector<T>& values) {
    absl::StatusOr<Buffer> buffer = AllocateGpuBuffer(device_, values.size() * sizeof(T));
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    device_.CopyToDevice(buffer->data(), values.data(), buffer->bytes(), GpuStream::kCompute);
    EXPECT_TRUE(device_.Synchronize(absl::Seconds(60)).ok());
    return *std::move(buffer);
  }
  template <typename T>
  void Download(const Buffer& buffer, std::vector<T>& values) {
    device_.CopyToHost(values.data(), buffer.data(), buffer.bytes(), GpuStream::kCompute);
    const absl::Status status = device_.Synchronize(absl::Seconds(60));
    EXPECT_TRUE(status.ok()) << status;
  }

  void Keep(const Step& step, const std::vector<int32_t>& positions,
            const std::vector<int32_t>& sequences, const std::vector<uint16_t>& out,
            const std::vector<float>& qkv) {
    const int64_t width = problem_.heads.query_width();
    for (size_t row = 0; row < positions.size(); ++row) {
      if (positions[row] < 0) {
        for (int64_t i = 0; i < width; ++i) EXPECT_EQ(out[row * width + i], 0) << row;
        continue;
      }
      const int sequence = step[sequences[row]].sequence;
      for (int64_t i = 0; i < width; ++i) {
        result_.out[sequence][positions[row] * width + i] = Bf16ToFloat(out[row * width + i]);
        result_.queries[sequence][positions[row] * width + i] =
            qkv[row * problem_.heads.qkv_width() + i];
      }
    }
    cache_.clear();
  }

  GpuDevice& device_;
  const AttentionKernels kernels_;
  const AttentionProblem& problem_;
  const GpuKvLayout layout_;
  std::unique_ptr<GpuAttention> attention_;
  Buffer memory_;
  AttentionResult result_;
  std::vector<char> cache_;
};

// All of every sequence.
inline Step WholeStep(const AttentionProblem& problem) {
  Step step;
  for (size_t s = 0; s < problem.lengths.size(); ++s) {
    step.push_back({static_cast<int>(s), 0, problem.lengths[s]});
  }
  return step;
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_CUDA_ATTENTION_GPU_ATTENTION_HARNESS_H_
