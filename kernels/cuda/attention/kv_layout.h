#ifndef QWENSERVE_KERNELS_CUDA_ATTENTION_KV_LAYOUT_H_
#define QWENSERVE_KERNELS_CUDA_ATTENTION_KV_LAYOUT_H_

#include <cstdint>

#include "kernels/attention_batch.h"

namespace qwenserve {

// Where keys and values of one layer lie on a GPU. A block holds its KV heads one behind the other;
// a head holds
//   keys    [kKvBlockSize tokens][head_dim]
//   values  [kKvBlockSize tokens][head_dim]
//   scales  float [2][kKvBlockSize], of keys and of values; int8 only
// Elements are bf16, or int8 with value = code * scale. head_dim is a multiple of 16, so every row
// is a multiple of 16 bytes and every head one of 128, given a base that is aligned to 128.
struct GpuKvLayout {
  int32_t head_dim = 0;
  bool int8 = false;

  constexpr int32_t row_bytes() const { return head_dim * (int8 ? 1 : 2); }
  constexpr int32_t key_offset(int32_t slot) const { return slot * row_bytes(); }
  constexpr int32_t value_offset(int32_t slot) const { return (kKvBlockSize + slot) * row_bytes(); }
  constexpr int32_t key_scale_offset(int32_t slot) const {
    return 2 * kKvBlockSize * row_bytes() + slot * 4;
  }
  constexpr int32_t value_scale_offset(int32_t slot) const {
    return key_scale_offset(kKvBlockSize + slot);
  }
  constexpr int32_t head_bytes() const {
    return 2 * kKvBlockSize * row_bytes() + (int8 ? 2 * kKvBlockSize * 4 : 0);
  }
  constexpr int64_t block_bytes(int32_t num_kv_heads) const {
    return int64_t{head_bytes()} * num_kv_heads;
  }
};

// The largest head_dim of the kernels; the others are the multiples of 16 below it.
inline constexpr int32_t kMaxGpuHeadDim = 128;

constexpr bool IsGpuHeadDim(int32_t head_dim) {
  return head_dim > 0 && head_dim % 16 == 0 && head_dim <= kMaxGpuHeadDim;
}

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_ATTENTION_KV_LAYOUT_H_
