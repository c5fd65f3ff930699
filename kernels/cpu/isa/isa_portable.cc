// The kernels for any machine: plain loops around std::fma. Slow where the machine has no fused
// multiply-add, but bit-equal to the others, which is what this file is for.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

struct F32 {
  using Storage = float;
  static constexpr bool kInterleaved = false;
  static float ToFloat(float v) { return v; }
  static float FromFloat(float v) { return v; }
};

struct Bf16 {
  using Storage = uint16_t;
  static constexpr bool kInterleaved = true;
  static float ToFloat(uint16_t v) { return Bf16ToFloat(v); }
  static uint16_t FromFloat(float v) { return FloatToBf16(v); }
};

struct F16 {
  using Storage = uint16_t;
  static constexpr bool kInterleaved = false;
  static float ToFloat(uint16_t v) { return F16ToFloat(v); }
};

struct Int8Panel {
  using Storage = int8_t;
  static constexpr bool kInterleaved = false;
  static float ToFloat(int8_t v) { return v; }
};

#include "kernels/cpu/isa/elementwise_inl.h"
#include "kernels/cpu/isa/sampling_inl.h"

// 16 stored elements as floats in column order.
template <typename Format>
inline void Load16(const typename Format::Storage* b, float* out) {
  for (int64_t c = 0; c < kPanelColumns; ++c) out[c] = Format::ToFloat(b[PanelSlot<Format>(c)]);
}

template <typename Format>
void ExpandPanel(const typename Format::Storage* b, int64_t count, float* out) {
  for (int64_t k = 0; k < count; ++k)
    Load16<Format>(b + k * kPanelColumns, out + k * kPanelColumns);
}

// c[r][16 p + j] = init or 0, then a chain of fused multiply-adds over k ascending, then + bias.
// b: element k of panel p starts at b + p * panel_stride + k * ldb.
template <typename Format, int panels, bool prefetch>
void TileRows(int64_t rows, const float* a, int64_t lda, const typename Format::Storage* b,
              int64_t ldb, int64_t panel_stride, int64_t k, bool init, const float* bias, float* c,
              int64_t ldc) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int p = 0; p < panels; ++p) {
      float* out = c + r * ldc + p * kPanelColumns;
      float sum[kPanelColumns], w[kPanelColumns];
      for (int64_t j = 0; j < kPanelColumns; ++j) sum[j] = init ? out[j] : 0.0f;
      for (int64_t i = 0; i < k; ++i) {
        Load16<Format>(b + p * panel_stride + i * ldb, w);
        const float x = a[r * lda + i];
        for (int64_t j = 0; j < kPanelColumns; ++j) sum[j] = std::fma(x, w[j], sum[j]);
      }
      for (int64_t j = 0; j < kPanelColumns; ++j) {
        out[j] = bias == nullptr ? sum[j] : sum[j] + bias[p * kPanelColumns + j];
      }
    }
  }
}

#include "kernels/cpu/isa/linear_inl.h"

inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float HalfToFloat(uint16_t bits) { return F16ToFloat(bits); }
#include "kernels/cpu/isa/quant_linear_inl.h"

// What attention stands on.
typedef V8 Vf;
constexpr int kPanelVectors = 2;
constexpr int kTileSums = 12;
inline Vf Fma(Vf a, Vf b, Vf c) {
  Vf result;
  for (int i = 0; i < 8; ++i) result[i] = std::fma(a[i], b[i], c[i]);
  return result;
}
template <typename Format>
inline void LoadPanel(const typename Format::Storage* p, Vf* out) {
  float columns[kPanelColumns];
  Load16<Format>(p, columns);
  __builtin_memcpy(out, columns, sizeof columns);
}
#include "kernels/cpu/isa/attention_inl.h"
#include "kernels/cpu/isa/table_inl.h"

}  // namespace

constinit const KernelTable kPortableKernels =
    MakeTable("portable", QuantizeRows, QuantLinearPanels<true>, QuantLinearPanels<false>);

}  // namespace qwenserve
