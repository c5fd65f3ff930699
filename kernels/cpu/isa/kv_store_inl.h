#ifndef QWENSERVE_KERNELS_CPU_ISA_KV_STORE_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_KV_STORE_INL_H_

// Formats of the KV cache: one token's store into a block, and a block's way back to floats.
// Included by attention_inl.h.

// kScaled: scores and probabilities are multiplied by the token's scales.
// kAlwaysExpand: attention reads it only as floats that ExpandKeys and ExpandValues made.
struct F32Kv : F32 {
  static constexpr bool kScaled = false, kAlwaysExpand = false;
};
struct Bf16Kv : Bf16 {
  static constexpr bool kScaled = false, kAlwaysExpand = false;
};
struct Int8Kv : Int8Panel {
  static constexpr bool kScaled = true, kAlwaysExpand = false;
};
struct QwenInt8Kv {
  using Storage = uint8_t;
  static constexpr bool kScaled = false, kAlwaysExpand = true;
};

// [16] each: key scales, value scales, key zeros, value zeros.
inline const float* KeyScales(const char* block, const KvHeadArgs& kv) {
  return reinterpret_cast<const float*>(block + kv.scale_offset);
}
inline const float* ValueScales(const char* block, const KvHeadArgs& kv) {
  return KeyScales(block, kv) + kPanelColumns;
}

template <typename Format>
void StoreKv(const float* key, const float* value, int64_t head_dim, int64_t slot, char* block,
             const KvHeadArgs& kv) {
  using T = typename Format::Storage;
  const int64_t padded_dim = (head_dim + 15) / 16 * 16;
  T* keys = reinterpret_cast<T*>(block) + PanelSlot<Format>(slot);
  T* values = reinterpret_cast<T*>(block + kv.value_offset) + slot * padded_dim;
  for (int64_t d = 0; d < head_dim; ++d) {
    keys[d * kPanelColumns] = Format::FromFloat(key[d]);
    values[d / 16 * 16 + PanelSlot<Format>(d % 16)] = Format::FromFloat(value[d]);
  }
}

// Stores x as codes `stride` apart: x * (127 / amax) to the nearest integer, ties to even, amax the
// largest magnitude. Returns the scale amax / 127. Below 1e-30, where 127 / amax may not be a
// number, all is 0; where an element is no number, so is the scale, and what attends to it.
inline float StoreInt8(const float* x, int64_t count, int8_t* codes, int64_t stride) {
  const float magic = 12582912.0f;  // adding it rounds to an integer
  float amax = 0;
  bool finite = true;
  for (int64_t d = 0; d < count; ++d) {
    const float magnitude = __builtin_fabsf(x[d]);
    finite = finite && magnitude <= 3.40282347e38f;
    amax = magnitude > amax ? magnitude : amax;
  }
  const bool sound = finite && amax >= 1e-30f;
  const float inverse = sound ? 127.0f / amax : 0.0f;
  for (int64_t d = 0; d < count; ++d) {
    codes[d * stride] = sound ? static_cast<int8_t>((x[d] * inverse + magic) - magic) : int8_t{0};
  }
  if (!finite) return __builtin_nanf("");
  return sound ? amax / 127.0f : 0.0f;
}

template <>
void StoreKv<Int8Kv>(const float* key, const float* value, int64_t head_dim, int64_t slot,
                     char* block, const KvHeadArgs& kv) {
  const int64_t padded_dim = (head_dim + 15) / 16 * 16;
  int8_t* keys = reinterpret_cast<int8_t*>(block) + slot;
  int8_t* values = reinterpret_cast<int8_t*>(block + kv.value_offset) + slot * padded_dim;
  float* scales = reinterpret_cast<float*>(block + kv.scale_offset) + slot;
  scales[0] = StoreInt8(key, head_dim, keys, kPanelColumns);
  scales[kPanelColumns] = StoreInt8(value, head_dim, values, 1);
}

// `next`: what to ask the memory for meanwhile, as large as the keys.
template <typename Format>
void ExpandKeys(const char* block, const char* next, const KvHeadArgs&, int64_t dim, float* out) {
  using T = typename Format::Storage;
  const T* keys = reinterpret_cast<const T*>(block);
  for (int64_t d = 0; d < dim; ++d) {
    Vf w[kPanelVectors];
    __builtin_prefetch(reinterpret_cast<const T*>(next) + d * kPanelColumns);
    LoadPanel<Format>(keys + d * kPanelColumns, w);
    for (int v = 0; v < kPanelVectors; ++v)
      StoreVf(out + d * kPanelColumns + v * kVectorFloats, w[v]);
  }
}

// out: of `count` positions, panels of 16 columns kGroupPanels * 16 positions apart.
template <typename Format>
void ExpandValues(const char* block, const char* next, const KvHeadArgs& kv, int64_t count,
                  int64_t padded_dim, float* out) {
  using T = typename Format::Storage;
  constexpr int64_t kPanelFloats = kGroupPanels * kPanelColumns * kPanelColumns;
  const T* values = reinterpret_cast<const T*>(block + kv.value_offset);
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t c = 0; c < padded_dim; c += kPanelColumns) {
      __builtin_prefetch(reinterpret_cast<const T*>(next) + t * padded_dim + c);
      Vf w[kPanelVectors];
      LoadPanel<Format>(values + t * padded_dim + c, w);
      float* to = out + c / kPanelColumns * kPanelFloats + t * kPanelColumns;
      for (int v = 0; v < kPanelVectors; ++v) StoreVf(to + v * kVectorFloats, w[v]);
    }
  }
}

// scale * (code - zero), as the format is defined.
template <>
void ExpandKeys<QwenInt8Kv>(const char* block, const char*, const KvHeadArgs& kv, int64_t dim,
                            float* out) {
  const uint8_t* keys = reinterpret_cast<const uint8_t*>(block);
  const float* scales = KeyScales(block, kv);
  const float* zeros = scales + 2 * kPanelColumns;
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t t = 0; t < kPanelColumns; ++t) {
      const int64_t i = d * kPanelColumns + t;
      out[i] = (static_cast<float>(keys[i]) - zeros[t]) * scales[t];
    }
  }
}

template <>
void ExpandValues<QwenInt8Kv>(const char* block, const char*, const KvHeadArgs& kv, int64_t count,
                              int64_t padded_dim, float* out) {
  constexpr int64_t kPanelFloats = kGroupPanels * kPanelColumns * kPanelColumns;
  const uint8_t* values = reinterpret_cast<const uint8_t*>(block + kv.value_offset);
  const float* scales = ValueScales(block, kv);
  const float* zeros = scales + 2 * kPanelColumns;
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t d = 0; d < padded_dim; ++d) {
      out[d / kPanelColumns * kPanelFloats + t * kPanelColumns + d % kPanelColumns] =
          (static_cast<float>(values[t * padded_dim + d]) - zeros[t]) * scales[t];
    }
  }
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_KV_STORE_INL_H_
