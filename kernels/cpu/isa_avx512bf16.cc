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
// Pairs of inputs in a block of the depth: two panels of it (28 KiB) stay in the first cache.
constexpr int64_t kDepthBlock = 224;
// Rows whose inputs of one depth block (448 KiB) stay in the second cache.
constexpr int64_t kRowBlock = 512;
constexpr int64_t kMaxTileRows = 12;

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

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
template <int rows, int panels, bool prefetch>
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
      if (prefetch) {
        _mm_prefetch(reinterpret_cast<const char*>(source) + kPrefetchBytes / panels, _MM_HINT_T0);
      }
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

template <int panels, bool prefetch>
void TileOfRows(int64_t rows, const TileArgs& args) {
  const auto run = [&]<int count>() {
    if constexpr (count * panels <= 24) Tile<count, panels, prefetch>(args);
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

// Panels panel .. panel + panels - 1 and pairs depth .. of one depth block for some rows of x.
template <int panels>
struct Piece {
  const Bf16DotArgs& args;
  int64_t panel, row, rows, depth, depth_count;

  bool last() const { return depth + depth_count == args.pairs; }
  const uint32_t* weight() const {
    return static_cast<const uint32_t*>(args.weight) + (panel * args.pairs + depth) * 16;
  }

  template <bool prefetch>
  void RunRows(int64_t first, int64_t count) const {
    const int64_t column = panel * kPanelColumns;
    const int64_t columns = Min(panels * kPanelColumns, args.out_features - column);
    const float* bias = last() && args.bias != nullptr ? args.bias + column : nullptr;
    float* out = args.out + (row + first) * args.out_features + column;
    TileArgs tile = {.x = args.x + (row + first) * args.pairs + depth,
                     .x_stride = args.pairs,
                     .weight = weight(),
                     .panel_stride = args.pairs * 16,
                     .pairs = depth_count,
                     .resume = depth != 0,
                     .bias = bias,
                     .out = out,
                     .out_stride = args.out_features};
    if (columns == panels * kPanelColumns) return TileOfRows<panels, prefetch>(count, tile);
    // The last panel is incomplete: through a tile of its own.
    float padded[kMaxTileRows * panels * kPanelColumns] = {};
    float padded_bias[panels * kPanelColumns] = {};
    for (int64_t c = 0; c < columns; ++c) {
      if (bias != nullptr) padded_bias[c] = bias[c];
      for (int64_t r = 0; tile.resume && r < count; ++r) {
        padded[r * panels * kPanelColumns + c] = out[r * args.out_features + c];
      }
    }
    if (bias != nullptr) tile.bias = padded_bias;
    tile.out = padded;
    tile.out_stride = panels * kPanelColumns;
    TileOfRows<panels, prefetch>(count, tile);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        out[r * args.out_features + c] = padded[r * panels * kPanelColumns + c];
      }
    }
  }

  // Few rows: bound by memory, the weights of this piece are asked for as it runs.
  void Stream() const { RunRows<true>(0, rows); }

  // Many rows, as tiles of nearly equal height. Meanwhile the next piece's weights come in, a
  // little with each tile.
  void Blocked(const char* next) const {
    const int64_t tiles = (rows + kMaxTileRows - 1) / kMaxTileRows;
    const int64_t lines = depth_count * panels;
    int64_t first = 0, asked = 0;
    for (int64_t t = 0; t < tiles; ++t) {
      if (next != nullptr) {
        for (const int64_t until = lines * (t + 1) / tiles; asked < until; ++asked) {
          const int64_t p = asked / depth_count, i = asked % depth_count;
          _mm_prefetch(next + (p * args.pairs + i) * 64, _MM_HINT_T1);
        }
      }
      const int64_t count = (rows - first + tiles - t - 1) / (tiles - t);
      RunRows<false>(first, count);
      first += count;
    }
  }
};

template <int panels>
int64_t StreamPanels(const Bf16DotArgs& args, int64_t panel, int64_t panel_end) {
  for (; panel + panels <= panel_end; panel += panels) {
    Piece<panels>{args, panel, 0, args.rows, 0, args.pairs}.Stream();
  }
  return panel;
}

void LinearBlocked(const Bf16DotArgs& args, int64_t panel_begin, int64_t panel_end) {
  for (int64_t row = 0; row < args.rows; row += kRowBlock) {
    const int64_t rows = Min(kRowBlock, args.rows - row);
    for (int64_t depth = 0; depth < args.pairs; depth += kDepthBlock) {
      const int64_t count = Min(kDepthBlock, args.pairs - depth);
      int64_t panel = panel_begin;
      for (; panel + 2 <= panel_end; panel += 2) {
        const Piece<2> piece = {args, panel, row, rows, depth, count};
        const Piece<2> next = {args, panel + 2, row, rows, depth, count};
        piece.Blocked(panel + 4 <= panel_end ? reinterpret_cast<const char*>(next.weight())
                                             : nullptr);
      }
      if (panel < panel_end) Piece<1>{args, panel, row, rows, depth, count}.Blocked(nullptr);
    }
  }
}

void LinearPanels(const Bf16DotArgs& args, int64_t panel_begin, int64_t panel_end) {
  if (args.rows > kMaxTileRows) return LinearBlocked(args, panel_begin, panel_end);
  int64_t panel = panel_begin;
  // Few rows have few independent sums, hence several panels at once.
  if (args.rows <= 3) panel = StreamPanels<8>(args, panel, panel_end);
  if (args.rows <= 6) panel = StreamPanels<4>(args, panel, panel_end);
  panel = StreamPanels<2>(args, panel, panel_end);
  StreamPanels<1>(args, panel, panel_end);
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
