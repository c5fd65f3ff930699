#include "kernels/device_memory.h"

#include <algorithm>

#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/packed_quantized.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cuda/gemm/gpu_linear.h"

namespace qwenserve {
namespace {

// Of an H100 or H200.
constexpr int kMultiprocessors = 132;

FragmentFormat FormatOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF16:
      return FragmentFormat::kF16;
    case WeightFormat::kInt8:
      return FragmentFormat::kInt8;
    case WeightFormat::kInt4:
      return FragmentFormat::kInt4;
    default:
      return FragmentFormat::kBf16;
  }
}

}  // namespace

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
  // kernels/cuda/attention/kv_layout.h
  const bool int8 = format == KvFormat::kInt8;
  const int64_t rows = 2 * kKvBlockSize;
  return heads.num_kv_heads * rows * (heads.head_dim * (int8 ? 1 : 2) + (int8 ? 4 : 0));
}

DType ActivationType(DeviceKind kind) {
  return kind == DeviceKind::kCpu ? DType::kF32 : DType::kBf16;
}

int64_t WorkspaceBytes(DeviceKind kind, absl::Span<const PackedShape> weights) {
  if (kind == DeviceKind::kCpu) return 0;
  // Each of these is as large as the weight with the most needs it (GpuLinear).
  int64_t partials = 0, arrivals = 0, gathered = 0;
  for (const PackedShape& weight : weights) {
    if (weight.format == WeightFormat::kF32) continue;
    const int64_t inputs = IsQuantized(weight.format) ? weight.packed_inputs : weight.in_features;
    const LinearWorkspace needed =
        WorkspaceOf({FormatOf(weight.format), weight.out_features, inputs}, kMultiprocessors);
    partials = std::max(partials, needed.partial_floats * 4);
    arrivals = std::max(arrivals, needed.arrivals * 4);
    if (weight.reordered || weight.in_features % kAlignedInputs != 0) {
      gathered = std::max(gathered, kGatherRows * inputs * 2);
    }
  }
  // Partial results of attention (GpuAttentionOptions).
  constexpr int64_t kAttention = (int64_t{32} << 20) + int64_t{8} * kMultiprocessors * 4;
  return partials + arrivals + gathered + kAttention;
}

}  // namespace qwenserve
