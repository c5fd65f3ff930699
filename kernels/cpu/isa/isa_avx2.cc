// The kernels for x86-64 with AVX2, FMA and F16C. Compiled with its own flags: includes nothing
// that holds an inline function with a name of its own (see kernel_table.h).
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
  static void Load16(const float* b, __m256& low, __m256& high) {
    low = _mm256_loadu_ps(b);
    high = _mm256_loadu_ps(b + 8);
  }
};

struct Bf16 {
  using Storage = uint16_t;
  static constexpr bool kInterleaved = true;
  static uint16_t FromFloat(float v) { return RoundToBf16(v); }
  static void Load16(const uint16_t* b, __m256& low, __m256& high) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
    low = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
    high =
        _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
};

struct F16 {
  using Storage = uint16_t;
  static void Load16(const uint16_t* b, __m256& low, __m256& high) {
    low = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b)));
    high = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + 8)));
  }
};

struct Int8Panel {
  using Storage = int8_t;
  static constexpr bool kInterleaved = false;
  static void Load16(const int8_t* b, __m256& low, __m256& high) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
    low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v));
    high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(v, v)));
  }
};

#include "kernels/cpu/isa/elementwise_inl.h"
#include "kernels/cpu/isa/sampling_inl.h"

template <typename Format>
void ExpandPanel(const typename Format::Storage* b, int64_t count, float* out) {
  for (int64_t k = 0; k < count; ++k) {
    __m256 low, high;
    Format::Load16(b + k * kPanelColumns, low, high);
    _mm256_storeu_ps(out + k * kPanelColumns, low);
    _mm256_storeu_ps(out + k * kPanelColumns + 8, high);
  }
}

// Bytes of weights, over all streams, that are asked for ahead of their use: what a core must have
// under way to draw its share of the memory's bandwidth. At the end of a panel that reaches into
// the next group of panels, without which every group would begin with a wait.
constexpr int64_t kPrefetchBytes = 8192;

// c[r][16 p + j] = init or 0, then a chain of fused multiply-adds over k ascending, then + bias.
// b: element k of panel p starts at b + p * panel_stride + k * ldb. rows * panels <= 6, so that all
// sums stay in registers.
template <typename Format, int rows, int panels, bool prefetch>
void Tile(const float* a, int64_t lda, const typename Format::Storage* b, int64_t ldb,
          int64_t panel_stride, int64_t k, bool init, const float* bias, float* c, int64_t ldc) {
  __m256 sum[rows][2 * panels];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < 2 * panels; ++v) {
      sum[r][v] = init ? _mm256_loadu_ps(c + r * ldc + 8 * v) : _mm256_setzero_ps();
    }
  }
  constexpr int64_t kRowBytes = kPanelColumns * static_cast<int64_t>(sizeof(*b));
  constexpr int64_t kAheadRows = kPrefetchBytes / panels / kRowBytes;
  const int64_t next_group = (panels - 1) * panel_stride + kAheadRows * kPanelColumns;
  int64_t i = 0, ahead = kAheadRows * kPanelColumns;
  for (int64_t end = k - kAheadRows; i < k; end = k, ahead = next_group) {
    for (; i < end; ++i) {
#pragma GCC unroll 8
      for (int p = 0; p < panels; ++p) {
        const auto* source = b + p * panel_stride + i * ldb;
        if (prefetch) _mm_prefetch(reinterpret_cast<const char*>(source + ahead), _MM_HINT_T0);
        __m256 low, high;
        Format::Load16(source, low, high);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
          const __m256 x = _mm256_broadcast_ss(a + r * lda + i);
          sum[r][2 * p] = _mm256_fmadd_ps(x, low, sum[r][2 * p]);
          sum[r][2 * p + 1] = _mm256_fmadd_ps(x, high, sum[r][2 * p + 1]);
        }
        // The next panel loads its inputs anew: kept over panels, they would push sums out of the
        // registers.
        if (panels > 1) asm volatile("" ::: "memory");
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < 2 * panels; ++v) {
      const __m256 value =
          bias == nullptr ? sum[r][v] : _mm256_add_ps(sum[r][v], _mm256_loadu_ps(bias + 8 * v));
      _mm256_storeu_ps(c + r * ldc + 8 * v, value);
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
      Tile<Format, count, panels, prefetch>(a, lda, b, ldb, panel_stride, k, init, bias, c, ldc);
    };
    if (height == 1) run.template operator()<1>();
    if constexpr (kMaxRows >= 2) {
      if (height == 2) run.template operator()<2>();
    }
    if constexpr (kMaxRows >= 3) {
      if (height == 3) run.template operator()<3>();
    }
    if constexpr (kMaxRows >= 6) {
      if (height == 4) run.template operator()<4>();
      if (height == 5) run.template operator()<5>();
      if (height == 6) run.template operator()<6>();
    }
    a += height * lda;
    c += height * ldc;
    rows -= height;
  }
}

#include "kernels/cpu/isa/linear_inl.h"
#include "kernels/cpu/isa/quant_avx2_inl.h"

// What attention stands on.
typedef __m256 Vf;
constexpr int kPanelVectors = 2;
constexpr int kTileSums = 12;
inline Vf Fma(Vf a, Vf b, Vf c) { return _mm256_fmadd_ps(a, b, c); }
template <typename Format>
inline void LoadPanel(const typename Format::Storage* p, Vf* out) {
  Format::Load16(p, out[0], out[1]);
}
#include "kernels/cpu/isa/attention_inl.h"
#include "kernels/cpu/isa/table_inl.h"

}  // namespace

constinit const KernelTable kAvx2Kernels =
    MakeTable("avx2", QuantizeRowsAvx2, QuantLinearAvx2<Int8>, QuantLinearAvx2<Int4>);

}  // namespace qwenserve
