#include "kernels/cpu/qwen_int8_kv.h"

#include <algorithm>
#include <cmath>

namespace qwenserve {
namespace {

uint8_t Code(float x, const QwenInt8Range& range) {
  const float code = x / range.scale + range.zero;
  // NaN becomes 0; its range is NaN, so what is read back is NaN.
  return code >= 0 ? static_cast<uint8_t>(std::min(code, 255.0f)) : uint8_t{0};
}

}  // namespace

QwenInt8Range QwenInt8RangeOf(const float* x, int64_t rows, int64_t stride, int64_t head_dim) {
  float low = x[0], high = x[0];
  bool finite = true;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < head_dim; ++d) {
      const float v = x[r * stride + d];
      finite = finite && std::isfinite(v);
      low = std::min(low, v);
      high = std::max(high, v);
    }
  }
  if (!finite) return {std::nanf(""), std::nanf("")};
  const float scale = low == high ? 1.0f : (high - low) / 255.0f;
  return {scale, 0.0f - low / scale};
}

void StoreQwenInt8(const float* key, const QwenInt8Range& key_range, const float* value,
                   const QwenInt8Range& value_range, int64_t head_dim, int64_t slot, char* block,
                   const KvHeadArgs& kv) {
  const int64_t padded_dim = (head_dim + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
  auto* keys = reinterpret_cast<uint8_t*>(block) + slot;
  auto* values = reinterpret_cast<uint8_t*>(block + kv.value_offset) + slot * padded_dim;
  for (int64_t d = 0; d < head_dim; ++d) {
    keys[d * kPanelColumns] = Code(key[d], key_range);
    values[d] = Code(value[d], value_range);
  }
  float* scales = reinterpret_cast<float*>(block + kv.scale_offset) + slot;
  scales[0] = key_range.scale;
  scales[kPanelColumns] = value_range.scale;
  scales[2 * kPanelColumns] = key_range.zero;
  scales[3 * kPanelColumns] = value_range.zero;
}

}  // namespace qwenserve
