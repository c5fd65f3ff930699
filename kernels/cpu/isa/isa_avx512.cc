// The kernels for x86-64 with AVX-512 F, BW, DQ, VL and VNNI. Compiled with its own flags: includes
// nothing that holds an inline function with a name of its own (see kernel_table.h).
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {
namespace {

#include "kernels/cpu/isa/bf16_inl.h"

struct F32 {
  using Storage = float;
  static constexpr bool kInterleaved = false;
  static float FromFloat(float v) { return v; }
  static __m512 Load16(const float* b) { return _mm512_loadu_ps(b); }
};

struct Bf16 {
  using Storage = uint16_t;
  static constexpr bool kInterleaved = true;
  static uint16_t FromFloat(float v) { return RoundToBf16(v); }
  static __m512 Load16(const uint16_t* b) {
    // One permutation puts each column into the upper half of its lane and zeros below it.
    const __m512i slots = _mm512_set_epi16(15, 0, 13, 0, 11, 0, 9, 0, 7, 0, 5, 0, 3, 0, 1, 0,  //
                                           14, 0, 12, 0, 10, 0, 8, 0, 6, 0, 4, 0, 2, 0, 0, 0);
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xaaaaaaaau, slots, _mm512_castsi256_si512(v)));
  }
};

struct F16 {
  using Storage = uint16_t;
  static __m512 Load16(const uint16_t* b) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  }
};

struct Int8Panel {
  using Storage = int8_t;
  static constexpr bool kInterleaved = false;
  static __m512 Load16(const int8_t* b) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v));
  }
};

#include "kernels/cpu/isa/elementwise_inl.h"
#include "kernels/cpu/isa/sampling_inl.h"

template <typename Format>
void ExpandPanel(const typename Format::Storage* b, int64_t count, float* out) {
  for (int64_t k = 0; k < count; ++k) {
    _mm512_storeu_ps(out + k * kPanelColumns, Format::Load16(b + k * kPanelColumns));
  }
}

// Bytes of weights, over all streams, that are asked for ahead of their use: what a core must have
// under way to draw its share of the memory's bandwidth.
constexpr int64_t kPrefetchBytes = 4096;

// c[r][16 p + j] = init or 0, then a chain of fused multiply-adds over k ascending, then + bias.
// b: element k of panel p starts at b + p * panel_stride + k * ldb. rows * panels <= 12, so that
// all sums stay in registers and are enough independent chains for two pipes of latency 4.
template <typename Format, int rows, int panels, bool prefetch>
void Tile(const float* a, int64_t lda, const typename Format::Storage* b, int64_t ldb,
          int64_t panel_stride, int64_t k, bool init, const float* bias, float* c, int64_t ldc) {
  __m512 sum[rows][panels];
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      sum[r][p] = init ? _mm512_loadu_ps(c + r * ldc + 16 * p) : _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < k; ++i) {
    __m512 w[panels];
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      const auto* source = b + p * panel_stride + i * ldb;
      if (prefetch) {
        _mm_prefetch(reinterpret_cast<const char*>(source) + kPrefetchBytes / panels, _MM_HINT_T0);
      }
      w[p] = Format::Load16(source);
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
      const __m512 x = _mm512_set1_ps(a[r * lda + i]);
#pragma GCC unroll 4
      for (int p = 0; p < panels; ++p) sum[r][p] = _mm512_fmadd_ps(x, w[p], sum[r][p]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      const __m512 value =
          bias == nullptr ? sum[r][p] : _mm512_add_ps(sum[r][p], _mm512_loadu_ps(bias + 16 * p));
      _mm512_storeu_ps(c + r * ldc + 16 * p, value);
    }
  }
}

// Any number of rows, as tiles of nearly equal height.
template <typename Format, int panels, bool prefetch>
void TileRows(int64_t rows, const float* a, int64_t lda, const typename Format::Storage* b,
              int64_t ldb, int64_t panel_stride, int64_t k, bool init, const float* bias, float* c,
              int64_t ldc) {
  constexpr int kMaxRows = 12 / panels;
  for (int64_t tiles = (rows + kMaxRows - 1) / kMaxRows; rows > 0; --tiles) {
    const int64_t height = (rows + tiles - 1) / tiles;
    const auto run = [&]<int count>() {
      if constexpr (count <= kMaxRows) {
        Tile<Format, count, panels, prefetch>(a, lda, b, ldb, panel_stride, k, init, bias, c, ldc);
      }
    };
    switch (height) {
      case 1:
        run.template operator()<1>();
        break;
      case 2:
        run.template operator()<2>();
        break;
      case 3:
        run.template operator()<3>();
        break;
      case 4:
        run.template operator()<4>();
        break;
      case 5:
        run.template operator()<5>();
        break;
      case 6:
        run.template operator()<6>();
        break;
      case 7:
        run.template operator()<7>();
        break;
      case 8:
        run.template operator()<8>();
        break;
      case 9:
        run.template operator()<9>();
        break;
      case 10:
        run.template operator()<10>();
        break;
      case 11:
        run.template operator()<11>();
        break;
      case 12:
        run.template operator()<12>();
        break;
    }
    a += height * lda;
    c += height * ldc;
    rows -= height;
  }
}

#include "kernels/cpu/isa/linear_inl.h"
#include "kernels/cpu/isa/quant_avx512_inl.h"
#include "kernels/cpu/isa/quantize_avx512_inl.h"

// What attention stands on.
typedef __m512 Vf;
constexpr int kPanelVectors = 1;
constexpr int kTileSums = 24;
inline Vf Fma(Vf a, Vf b, Vf c) { return _mm512_fmadd_ps(a, b, c); }
template <typename Format>
inline void LoadPanel(const typename Format::Storage* p, Vf* out) {
  out[0] = Format::Load16(p);
}
#include "kernels/cpu/isa/attention_inl.h"
#include "kernels/cpu/isa/table_inl.h"

}  // namespace

constinit const KernelTable kAvx512Kernels =
    MakeTable("avx512", QuantizeRows, QuantLinearPanels<true>, QuantLinearPanels<false>);

}  // namespace qwenserve
