#ifndef QWENSERVE_KERNELS_CUDA_ATTENTION_ATTENTION_KERNELS_H_
#define QWENSERVE_KERNELS_CUDA_ATTENTION_ATTENTION_KERNELS_H_

#include <cstdint>

#include "kernels/cuda/attention/attention_plan.h"
#include "kernels/cuda/attention/kv_layout.h"
#include "kernels/cuda/runtime/gpu_kernel.h"

namespace qwenserve {

// One for each NTK alpha: powers of two from the trained length up to the served one.
inline constexpr int kMaxRopeTables = 24;

// One warp for each (row, query head) and (row, KV head).
struct NormRopeStoreArgs {
  int32_t num_rows = 0;
  int32_t max_blocks = 0;
  const int32_t* positions = nullptr;
  const int32_t* sequences = nullptr;
  const int32_t* block_tables = nullptr;
  const int32_t* rope_tables = nullptr;
  const float* query_scales = nullptr;
  GpuHeads heads;
  GpuKvLayout layout;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float epsilon = 0;
  float* qkv = nullptr;
  char* kv = nullptr;
  const float* rope[kMaxRopeTables] = {};
};
inline constexpr int kNormRopeThreads = 128;

struct AttentionArgs {
  int32_t num_rows = 0;
  int32_t num_sequences = 0;
  int32_t max_blocks = 0;
  const int32_t* positions = nullptr;
  const int32_t* sequences = nullptr;
  const int32_t* row_starts = nullptr;
  const int32_t* block_tables = nullptr;
  GpuHeads heads;
  GpuKvLayout layout;
  float scale = 0;  // log2(e) / sqrt(head_dim)
  const float* qkv = nullptr;
  const char* kv = nullptr;
  uint16_t* out = nullptr;  // bf16
};

// Grid: KV heads * HeadTiles, rows or sequences, plan.blocks: blocks begin in the order of x, then
// y, then z, so those that have nothing to do (BusyBlocks) come last and keep nobody waiting.
struct DecodeArgs {
  AttentionArgs attention;
  // True: all rows are to be computed. False: those that are their sequence's only one.
  bool by_row = false;
  DecodePlan plan;
  float* partials = nullptr;   // [rows][query heads][slots][PartialFloats]
  int32_t* arrived = nullptr;  // [rows or sequences][KV heads * HeadTiles], 0 between launches
};

// Grid: KV heads, tiles. Sequences of one row are left to decode.
struct PrefillArgs {
  AttentionArgs attention;
};

// Attention by head size (the smallest that holds head_dim) and format.
struct AttentionKernels {
  static constexpr int kDims[2] = {64, 128};
  GpuKernel norm_rope_store;
  GpuKernel decode[2][2];  // [kDims][int8]
  GpuKernel prefill[2][2];
};

constexpr int AttentionDimIndex(int32_t head_dim) { return head_dim <= 64 ? 0 : 1; }

// Each file of kernels fills in its own.
namespace on_cuda {
void AddNormRopeStore(AttentionKernels& kernels);
void AddDecodeAttention(AttentionKernels& kernels);
void AddPrefillAttention(AttentionKernels& kernels);
}  // namespace on_cuda
namespace on_simt {
void AddNormRopeStore(AttentionKernels& kernels);
void AddDecodeAttention(AttentionKernels& kernels);
void AddPrefillAttention(AttentionKernels& kernels);
}  // namespace on_simt

namespace on_cuda {
inline AttentionKernels GetAttentionKernels() {
  AttentionKernels kernels;
  AddNormRopeStore(kernels);
  AddDecodeAttention(kernels);
  AddPrefillAttention(kernels);
  return kernels;
}
}  // namespace on_cuda
namespace on_simt {
inline AttentionKernels GetAttentionKernels() {
  AttentionKernels kernels;
  AddNormRopeStore(kernels);
  AddDecodeAttention(kernels);
  AddPrefillAttention(kernels);
  return kernels;
}
}  // namespace on_simt

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_ATTENTION_ATTENTION_KERNELS_H_
