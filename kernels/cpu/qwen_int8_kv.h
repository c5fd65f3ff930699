#ifndef QWENSERVE_KERNELS_CPU_QWEN_INT8_KV_H_
#define QWENSERVE_KERNELS_CPU_QWEN_INT8_KV_H_

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {

// The int8 cache of the first Qwen generation, for comparisons with it (quantize_cache_v of its
// modeling_qwen.py): over all elements of one head's keys, or values, of the tokens of one step,
//   scale = (max - min) / 255, zero = -min / scale (not rounded),
//   code = trunc(clamp(x / scale + zero, 0, 255)), x' = scale * (code - zero).
// All in float, in this order. Where max equals min the original divides by zero; here scale is 1,
// which gives x back.
struct QwenInt8Range {
  float scale = 0;
  float zero = 0;
};

// rows * head_dim elements, rows `stride` apart.
QwenInt8Range QwenInt8RangeOf(const float* x, int64_t rows, int64_t stride, int64_t head_dim);

// Stores one token's key and value head at `slot` of a block; layout as in KvHeadArgs.
void StoreQwenInt8(const float* key, const QwenInt8Range& key_range, const float* value,
                   const QwenInt8Range& value_range, int64_t head_dim, int64_t slot, char* block,
                   const KvHeadArgs& kv);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_QWEN_INT8_KV_H_
