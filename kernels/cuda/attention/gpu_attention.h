#ifndef QWENSERVE_KERNELS_CUDA_ATTENTION_GPU_ATTENTION_H_
#define QWENSERVE_KERNELS_CUDA_ATTENTION_GPU_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention_batch.h"
#include "kernels/buffer.h"
#include "kernels/cuda/attention/attention_kernels.h"
#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

struct GpuAttentionOptions {
  // For partial results of rows that are cut along their positions. Less only means that long rows
  // are cut into fewer parts.
  size_t workspace_bytes = size_t{32} << 20;
  // Decode cuts rows until there are about so many blocks of threads; 0: 8 for a multiprocessor.
  int64_t wanted_blocks = 0;
};

// The ops on the KV cache, as kernels/backend.h says, over a GPU or its emulation. The layout is
// kv_layout.h. Nothing is allocated after Create, and what is launched depends on the batch's
// numbers alone (not on what its pointers point to): ops can be captured in a graph.
//
// A value that is no finite number is stored as a key of NaN, so that it makes the rows that see it
// NaN and no others.
//
// `device` must outlive it. One thread at a time.
class GpuAttention {
 public:
  // RESOURCE_EXHAUSTED without memory for the workspace.
  static absl::StatusOr<std::unique_ptr<GpuAttention>> Create(
      GpuDevice& device, const AttentionKernels& kernels, const GpuAttentionOptions& options = {});

  // UNIMPLEMENTED, naming what there is: bf16 and int8; head sizes that are multiples of 16 up to
  // kMaxGpuHeadDim.
  absl::Status SupportsKv(KvFormat format, const HeadLayout& heads) const;

  // Of a supported format.
  size_t KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const;

  // Reads the batch's lists before the op ahead of it is done: they come by a copy, not by an op.
  void NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads, const float* q_norm,
                       const float* k_norm, float epsilon, absl::Span<const RopeTable> rope,
                       float* qkv, const KvLayer& kv);

  // out: bf16 [num_rows, heads.query_width()]. May begin to read before the op ahead of it is done:
  // the batch's lists, and keys and values of other positions than the rows' own, must have been
  // written before NormRopeStoreKv was issued for the step.
  void PagedAttention(const AttentionBatch& batch, const HeadLayout& heads, const float* qkv,
                      const KvLayer& kv, void* out);

 private:
  GpuAttention(GpuDevice& device, const AttentionKernels& kernels, int64_t wanted_blocks);
  void LaunchDecode(const AttentionArgs& args, bool by_row);
  void LaunchPrefill(const AttentionArgs& args);

  GpuDevice& device_;
  const AttentionKernels kernels_;
  const int64_t wanted_blocks_;
  Buffer partials_;  // float
  Buffer arrived_;   // int32 [wanted_blocks]
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_ATTENTION_GPU_ATTENTION_H_
