#ifndef QWENSERVE_KERNELS_CPU_ISA_NEON_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_NEON_INL_H_

// The kernels for 64 bit Arm. The including file gives
//   Dot<lane>(sum, w, x)    sum[i] += the four products w[4 i + j] * x[4 lane + j]
// Included once per instruction set, inside an anonymous namespace (see kernel_table.h).

#include "kernels/cpu/isa/bf16_inl.h"

// 16 columns are four vectors.
struct F32 {
  using Storage = float;
  static constexpr bool kInterleaved = false;
  static float FromFloat(float v) { return v; }
  static void Load16(const float* b, float32x4_t (&out)[4]) {
    for (int v = 0; v < 4; ++v) out[v] = vld1q_f32(b + 4 * v);
  }
};

struct Bf16 {
  using Storage = uint16_t;
  static constexpr bool kInterleaved = true;
  static uint16_t FromFloat(float v) { return RoundToBf16(v); }
  static void Load16(const uint16_t* b, float32x4_t (&out)[4]) {
    for (int v = 0; v < 2; ++v) {
      const uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(b + 8 * v));
      out[v] = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
      out[v + 2] = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
    }
  }
};

inline float32x4_t LoadHalves(const uint16_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

struct F16 {
  using Storage = uint16_t;
  static void Load16(const uint16_t* b, float32x4_t (&out)[4]) {
    for (int v = 0; v < 4; ++v) out[v] = LoadHalves(b + 4 * v);
  }
};

struct Int8Panel {
  using Storage = int8_t;
  static constexpr bool kInterleaved = false;
  static void Load16(const int8_t* b, float32x4_t (&out)[4]) {
    for (int v = 0; v < 2; ++v) {
      const int16x8_t wide = vmovl_s8(vld1_s8(b + 8 * v));
      out[2 * v] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
      out[2 * v + 1] = vcvtq_f32_s32(vmovl_high_s16(wide));
    }
  }
};

#include "kernels/cpu/isa/elementwise_inl.h"
#include "kernels/cpu/isa/sampling_inl.h"

template <typename Format>
void ExpandPanel(const typename Format::Storage* b, int64_t count, float* out) {
  for (int64_t k = 0; k < count; ++k) {
    float32x4_t w[4];
    Format::Load16(b + k * kPanelColumns, w);
    for (int v = 0; v < 4; ++v) vst1q_f32(out + k * kPanelColumns + 4 * v, w[v]);
  }
}

// Bytes of weights, over all streams, that are asked for ahead of their use.
constexpr int64_t kPrefetchBytes = 4096;

// c[r][16 p + j] = init or 0, then a chain of fused multiply-adds over k ascending, then + bias.
// b: element k of panel p starts at b + p * panel_stride + k * ldb. rows * panels <= 6: 24 of the
// 32 registers hold sums.
template <typename Format, int rows, int panels, bool prefetch>
void Tile(const float* a, int64_t lda, const typename Format::Storage* b, int64_t ldb,
          int64_t panel_stride, int64_t k, bool init, const float* bias, float* c, int64_t ldc) {
  constexpr int kVectors = 4 * panels;
  float32x4_t sum[rows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = init ? vld1q_f32(c + r * ldc + 4 * v) : vdupq_n_f32(0);
    }
  }
  for (int64_t i = 0; i < k; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      const auto* source = b + p * panel_stride + i * ldb;
      if (prefetch) {
        __builtin_prefetch(reinterpret_cast<const char*>(source) + kPrefetchBytes / panels);
      }
      float32x4_t w[4];
      Format::Load16(source, w);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const float x = a[r * lda + i];
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) sum[r][4 * p + v] = vfmaq_n_f32(sum[r][4 * p + v], w[v], x);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const float32x4_t value =
          bias == nullptr ? sum[r][v] : vaddq_f32(sum[r][v], vld1q_f32(bias + 4 * v));
      vst1q_f32(c + r * ldc + 4 * v, value);
    }
  }
}

// Any number of rows, as tiles of nearly equal height.
template <typename Format, int panels, bool prefetch>
void TileRows(int64_t rows, const float* a, int64_t lda, const typename Format::Storage* b,
              int64_t ldb, int64_t panel_stride, int64_t k, bool init, const float* bias, float* c,
              int64_t ldc) {
  constexpr int64_t kMaxRows = 6 / panels;  // 1 for 4 panels
  for (int64_t tiles = (rows + kMaxRows - 1) / kMaxRows; rows > 0; --tiles) {
    const int64_t height = (rows + tiles - 1) / tiles;
    const auto run = [&]<int count>() {
      if constexpr (count <= kMaxRows) {
        Tile<Format, count, panels, prefetch>(a, lda, b, ldb, panel_stride, k, init, bias, c, ldc);
      }
    };
    if (height == 1) run.template operator()<1>();
    if (height == 2) run.template operator()<2>();
    if (height == 3) run.template operator()<3>();
    if (height == 4) run.template operator()<4>();
    if (height == 5) run.template operator()<5>();
    if (height == 6) run.template operator()<6>();
    a += height * lda;
    c += height * ldc;
    rows -= height;
  }
}

#include "kernels/cpu/isa/linear_inl.h"
#include "kernels/cpu/isa/quant_neon_inl.h"

// What attention stands on.
typedef V8 Vf;
constexpr int kPanelVectors = 2;
constexpr int kTileSums = 12;
inline Vf Fma(Vf a, Vf b, Vf c) {
  float32x4_t x[2], y[2], z[2];
  __builtin_memcpy(x, &a, sizeof a);
  __builtin_memcpy(y, &b, sizeof b);
  __builtin_memcpy(z, &c, sizeof c);
  for (int v = 0; v < 2; ++v) z[v] = vfmaq_f32(z[v], x[v], y[v]);
  __builtin_memcpy(&c, z, sizeof c);
  return c;
}
template <typename Format>
inline void LoadPanel(const typename Format::Storage* p, Vf* out) {
  float32x4_t w[4];
  Format::Load16(p, w);
  __builtin_memcpy(out, w, sizeof w);
}
#include "kernels/cpu/isa/attention_inl.h"
#include "kernels/cpu/isa/table_inl.h"

constexpr KernelTable NeonTable(const char* name) {
  return MakeTable(name, QuantizeRowsNeon, QuantLinearNeon<Int8>, QuantLinearNeon<Int4>);
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_NEON_INL_H_
