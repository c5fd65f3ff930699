#include "kernels/device_memory.h"

#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/packed_quantized.h"
#include "kernels/cpu/packed_weight.h"

namespace qwenserve {
namespace {

constexpr int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

int64_t GpuScaleCount(const QuantizedShape& shape) {
  return RoundUp(shape.out_features, 16) * shape.groups();
}

}  // namespace

int64_t LinearBytes(DeviceKind kind, DType dtype, int64_t out_features, int64_t in_features) {
  if (kind == DeviceKind::kCpu) {
    return static_cast<int64_t>(
        PackedBytes(static_cast<WeightFormat>(dtype), out_features, in_features, true));
  }
  return RoundUp(out_features, 16) * RoundUp(in_features, 16) *
         static_cast<int64_t>(DTypeBytes(dtype));
}

int64_t QuantizedBytes(DeviceKind kind, const QuantizedShape& shape) {
  const auto order = static_cast<int64_t>(shape.input_order.size() * sizeof(int32_t));
  const int64_t per_group = static_cast<int64_t>(sizeof(uint16_t)) + (shape.has_zeros ? 1 : 0);
  if (kind == DeviceKind::kCpu) {
    return static_cast<int64_t>(QuantizedDataBytes(shape)) +
           QuantizedScaleCount(shape) * per_group + order;
  }
  const int64_t codes = RoundUp(shape.out_features, 16) * shape.packed_inputs();
  return (shape.format == WeightFormat::kInt4 ? codes / 2 : codes) +
         GpuScaleCount(shape) * per_group + order;
}

int64_t KvBytesPerBlock(DeviceKind kind, const HeadLayout& heads, KvFormat format) {
  if (kind == DeviceKind::kCpu) return CpuKvHeadBytes(heads, format).total * heads.num_kv_heads;
  int64_t element = 2, scales = 0;
  if (format == KvFormat::kInt8) element = 1, scales = 2 * kKvBlockSize * 4;
  if (format == KvFormat::kF32) element = 4;
  return heads.num_kv_heads * (2 * kKvBlockSize * heads.head_dim * element + scales);
}

DType ActivationType(DeviceKind kind) {
  return kind == DeviceKind::kCpu ? DType::kF32 : DType::kBf16;
}

int64_t WorkspaceBytes(DeviceKind, const HeadLayout&, int64_t, int64_t) { return 0; }

}  // namespace qwenserve
