#include "kernels/device_memory.h"

#include <algorithm>

#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/packed_quantized.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cuda/attention/kv_layout.h"
#include "kernels/cuda/cublaslt/cublaslt_linear.h"
#include "kernels/cuda/gemm/gpu_linear.h"
#include "kernels/cuda/gpu_backend.h"

namespace qwenserve {

int64_t LinearBytes(DeviceKind kind, DType dtype, int64_t out_features, int64_t in_features) {
  const auto format = static_cast<WeightFormat>(dtype);
  return static_cast<int64_t>(kind == DeviceKind::kCpu
                                  ? PackedBytes(format, out_features, in_features, true)
                                  : GpuWeightBytes(format, out_features, in_features));
}

int64_t QuantizedBytes(DeviceKind kind, const QuantizedShape& shape) {
  if (kind == DeviceKind::kCuda) return static_cast<int64_t>(GpuWeightBytes(shape));
  const int64_t per_group = static_cast<int64_t>(sizeof(uint16_t)) + (shape.has_zeros ? 1 : 0);
  return static_cast<int64_t>(QuantizedDataBytes(shape)) + QuantizedScaleCount(shape) * per_group +
         static_cast<int64_t>(shape.input_order.size() * sizeof(int32_t));
}

int64_t KvBytesPerBlock(DeviceKind kind, const HeadLayout& heads, KvFormat format) {
  if (kind == DeviceKind::kCpu) return CpuKvHeadBytes(heads, format).total * heads.num_kv_heads;
  const GpuKvLayout layout = {heads.head_dim, format == KvFormat::kInt8};
  return layout.block_bytes(heads.num_kv_heads);
}

DType ActivationType(DeviceKind kind) {
  return kind == DeviceKind::kCpu ? DType::kF32 : DType::kBf16;
}

int64_t WorkspaceBytes(DeviceKind kind, absl::Span<const PackedShape> weights,
                       const WorkspaceOptions& options) {
  if (kind == DeviceKind::kCpu) return 0;
  // Each of these is as large as the weight with the most needs it (GpuLinear, CublasLtLinear).
  int64_t partials = 0, arrivals = 0, gathered = 0, unpacked = 0;
  for (const PackedShape& weight : weights) {
    const int64_t bytes = weight.out_features * weight.in_features * 2;
    if (bytes <= static_cast<int64_t>(CublasLtLinear::kMostUnpacked) &&
        weight.out_features <= CublasLtLinear::kMostOutputsPerInput * weight.in_features) {
      unpacked = std::max(unpacked, bytes);
    }
    if (weight.format == WeightFormat::kF32) continue;
    const int64_t inputs = IsQuantized(weight.format) ? weight.packed_inputs : weight.in_features;
    const LinearWorkspace needed = WorkspaceOf(
        {FragmentFormatOf(weight.format), weight.out_features, inputs}, options.multiprocessors);
    partials = std::max(partials, needed.partial_floats * 4);
    arrivals = std::max(arrivals, needed.arrivals * 4);
    if (weight.reordered || weight.in_features % kAlignedInputs != 0) {
      gathered = std::max(gathered, kGatherRows * inputs * 2);
    }
  }
  const int64_t attention = options.attention_bytes + int64_t{8} * options.multiprocessors * 4;
  const int64_t fast =
      options.fast ? unpacked + static_cast<int64_t>(CublasLtLinear::kWorkspaceBytes) : 0;
  return partials + arrivals + gathered + attention + fast;
}

int64_t PaddedRows(DeviceKind kind, int64_t rows) {
  return kind == DeviceKind::kCpu ? rows : GpuPaddedRows(rows);
}

}  // namespace qwenserve
