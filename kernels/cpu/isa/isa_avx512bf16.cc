// Products with bf16 weights by AVX512-BF16's dot instruction. Compiled with its own flags:
// includes nothing that holds an inline function with a name of its own (see kernel_table.h).
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {
namespace {

// Bytes of weights, over all streams, that are asked for ahead of their use.
constexpr int64_t kPrefetchBytes = 8192;
constexpr int64_t kOnePanelRows = 12;
constexpr int64_t kMaxTileRows = 12;
// Pairs of inputs that many rows use at a time: two panels of it (320 KiB) stay in the second
// cache.
constexpr int64_t kDepthBlock = 2560;

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

void CopyTile(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
              int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[r * to_stride + c] = from[r * from_stride + c];
  }
}

// One call of Tile: pairs, 32 weights each, are the unit of every stride.
struct TileArgs {
  const uint32_t* x;  // [rows][x_stride]
  int64_t x_stride;
  const uint32_t* weight;  // [pairs][16] of panel 0, panel_stride between panels
  int64_t panel_stride;
  int64_t pairs;
  bool resume;        // start from what is in out
  const float* bias;  // [16 * panels] or null
  float* out;         // [rows][out_stride]
  int64_t out_stride;
};

// out[r][16 p + j] = a chain of dot instructions over pairs ascending, then + bias. rows * panels
// <= 24, so that all sums stay in registers.
template <int rows, int panels>
void Tile(const TileArgs& args) {
  __m512 sum[rows][panels];
  float* out = args.out;
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < panels; ++p) {
      sum[r][p] =
          args.resume ? _mm512_loadu_ps(out + r * args.out_stride + 16 * p) : _mm512_setzero_ps();
    }
  }
  const uint32_t* weight = args.weight;
  const uint32_t* x = args.x;
  const int64_t panel_stride = args.panel_stride, x_stride = args.x_stride;
  for (int64_t i = 0; i < args.pairs; ++i, weight += 16, ++x) {
    __m512bh w[panels];
#pragma GCC unroll 8
    for (int p = 0; p < panels; ++p) {
      const uint32_t* source = weight + p * panel_stride;
      _mm_prefetch(reinterpret_cast<const char*>(source) + kPrefetchBytes / panels, _MM_HINT_T0);
      w[p] = (__m512bh)_mm512_loadu_si512(source);
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[r * x_stride]));
#pragma GCC unroll 8
      for (int p = 0; p < panels; ++p) sum[r][p] = _mm512_dpbf16_ps(sum[r][p], pair, w[p]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < panels; ++p) {
      const __m512 value = args.bias == nullptr
                               ? sum[r][p]
                               : _mm512_add_ps(sum[r][p], _mm512_loadu_ps(args.bias + 16 * p));
      _mm512_storeu_ps(out + r * args.out_stride + 16 * p, value);
    }
  }
}

template <int panels>
void TileOfRows(int64_t rows, const TileArgs& args) {
  const auto run = [&]<int count>() {
    if constexpr (count * panels <= 24) Tile<count, panels>(args);
  };
  switch (rows) {
    case 1:
      return run.template operator()<1>();
    case 2:
      return run.template operator()<2>();
    case 3:
      return run.template operator()<3>();
    case 4:
      return run.template operator()<4>();
    case 5:
      return run.template operator()<5>();
    case 6:
      return run.template operator()<6>();
    case 7:
      return run.template operator()<7>();
    case 8:
      return run.template operator()<8>();
    case 9:
      return run.template operator()<9>();
    case 10:
      return run.template operator()<10>();
    case 11:
      return run.template operator()<11>();
    case 12:
      return run.template operator()<12>();
  }
}

// One block of the depth for `panels` panels and all rows. The weights come from memory for the
// first rows and from the caches for the others.
template <int panels>
void Panels(const Bf16DotArgs& args, int64_t panel, int64_t depth, int64_t depth_count) {
  constexpr int64_t kColumns = panels * kPanelColumns;
  const int64_t column = panel * kPanelColumns;
  const int64_t columns = Min(kColumns, args.out_features - column);
  const bool last = depth + depth_count == args.pairs;
  const float* bias = last && args.bias != nullptr ? args.bias + column : nullptr;
  const auto* weight =
      static_cast<const uint32_t*>(args.weight) + (panel * args.pairs + depth) * 16;
  float padded[kMaxTileRows * kColumns], padded_bias[kColumns] = {};
  if (bias != nullptr && columns < kColumns) CopyTile(bias, 0, 1, columns, padded_bias, 0);
  const int64_t tiles = (args.rows + kMaxTileRows - 1) / kMaxTileRows;
  int64_t row = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    // Nearly equal heights.
    const int64_t count = (args.rows - row + tiles - t - 1) / (tiles - t);
    float* out = args.out + row * args.out_features + column;
    TileArgs tile = {.x = args.x + row * args.pairs + depth,
                     .x_stride = args.pairs,
                     .weight = weight,
                     .panel_stride = args.pairs * 16,
                     .pairs = depth_count,
                     .resume = depth != 0,
                     .bias = bias,
                     .out = out,
                     .out_stride = args.out_features};
    if (columns == kColumns) {
      TileOfRows<panels>(count, tile);
    } else {
      // The last panel is incomplete: through a tile of its own.
      for (float& v : padded) v = 0;
      if (tile.resume) CopyTile(out, args.out_features, count, columns, padded, kColumns);
      if (bias != nullptr) tile.bias = padded_bias;
      tile.out = padded;
      tile.out_stride = kColumns;
      TileOfRows<panels>(count, tile);
      CopyTile(padded, kColumns, count, columns, out, args.out_features);
    }
    row += count;
  }
}

template <int panels>
int64_t PanelGroups(const Bf16DotArgs& args, int64_t panel, int64_t panel_end, int64_t depth,
                    int64_t depth_count) {
  for (; panel + panels <= panel_end; panel += panels) {
    Panels<panels>(args, panel, depth, depth_count);
  }
  return panel;
}

void LinearPanels(const Bf16DotArgs& args, int64_t panel_begin, int64_t panel_end) {
  const int64_t block = args.rows <= kMaxTileRows ? args.pairs : kDepthBlock;
  for (int64_t depth = 0; depth < args.pairs; depth += block) {
    const int64_t count = Min(block, args.pairs - depth);
    int64_t panel = panel_begin;
    // Few rows wait for memory, which is read best as one stream. Two panels share the loads of x.
    if (args.rows > kOnePanelRows) panel = PanelGroups<2>(args, panel, panel_end, depth, count);
    PanelGroups<1>(args, panel, panel_end, depth, count);
  }
}

// To nearest, ties to even; subnormals become zeros, as in the dot instruction.
void RoundRows(const float* x, int64_t rows, int64_t in_features, uint32_t* out) {
  const int64_t pairs = (in_features + 1) / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * in_features;
    auto* rounded = reinterpret_cast<uint16_t*>(out + r * pairs);
    for (int64_t i = 0; i < 2 * pairs; i += 16) {
      const auto load = static_cast<__mmask16>(0xffffu >> (16 - Min(16, in_features - i)));
      const auto store = static_cast<__mmask16>(0xffffu >> (16 - Min(16, 2 * pairs - i)));
      const __m256bh v = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(load, row + i));
      _mm256_mask_storeu_epi16(rounded + i, store, (__m256i)v);
    }
  }
}

void Dot(const float* sums, const uint32_t* a, const uint32_t* b, float* out) {
  _mm512_storeu_ps(out, _mm512_dpbf16_ps(_mm512_loadu_ps(sums), (__m512bh)_mm512_loadu_si512(a),
                                         (__m512bh)_mm512_loadu_si512(b)));
}

}  // namespace

constinit const Bf16DotKernels kAvx512Bf16Dot = {
    .linear = LinearPanels,
    .round_rows = RoundRows,
    .dot = Dot,
};

}  // namespace qwenserve
