#ifndef QWENSERVE_KERNELS_CPU_ISA_QUANT_AVX512_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_QUANT_AVX512_INL_H_

// Quantised products by vpdpbusd, which multiplies unsigned weights with signed activations. An
// int8 weight w is taken as w + 128, and 128 times the sum of the block's activations is taken off
// beforehand, in the integer sum. Sums of a block are exact, so the order in it is free; what
// follows is QuantLinearArgs' order. Included by isa_avx512.cc, inside an anonymous namespace.

// Blocks of weights that are asked for ahead of their use by a product that streams them.
constexpr int64_t kPrefetchBlocks = 16;
// Rows whose sums are all in registers while the weights stream by.
constexpr int64_t kMaxStreamRows = 8;
// From here on weights are unpacked once for many rows. Rows of a register tile, of two panels;
// rows whose sums (15 KiB) and inputs of a chunk (as much) stay in the first cache beside a chunk
// of unpacked weights (4 KiB).
constexpr int64_t kBlockedFromRows = 25;
constexpr int64_t kTileRows = 6;
constexpr int64_t kQuantRowBlock = 120;
constexpr int64_t kChunkBlocks = 4;

constexpr int64_t kBlockUnits = 8;  // units of a block: 4 inputs of 16 outputs, 64 bytes

struct QuantShape {
  explicit QuantShape(const QuantLinearArgs& args)
      : blocks(args.packed_inputs / 32),
        group_blocks(args.group_size / 32),
        groups((blocks + group_blocks - 1) / group_blocks) {}
  int64_t blocks, group_blocks, groups;
};

template <bool int8>
const uint8_t* BlockOf(const QuantLinearArgs& args, int64_t panel, int64_t block) {
  constexpr int64_t kBytes = int8 ? 512 : 256;
  return static_cast<const uint8_t*>(args.weight) +
         (panel * (args.packed_inputs / 32) + block) * kBytes;
}

// Units 2 i and 2 i + 1 of a block as unsigned bytes.
template <bool int8>
inline void LoadUnits(const uint8_t* block, int64_t i, __m512i& first, __m512i& second) {
  if constexpr (int8) {
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    first = _mm512_xor_si512(_mm512_loadu_si512(block + i * 128), sign);
    second = _mm512_xor_si512(_mm512_loadu_si512(block + i * 128 + 64), sign);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i both = _mm512_loadu_si512(block + i * 64);
    first = _mm512_and_si512(both, low);
    second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
  }
}

inline __m512i Broadcast4(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

// What an integer sum starts from.
template <bool int8>
inline __m512i StartSum(const QuantActivations& x, int64_t block, int64_t row) {
  if constexpr (!int8) return _mm512_setzero_si512();
  return _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(),
                                            _mm512_set1_epi32(x.code_sums[block * x.rows + row])),
                           7);
}

// Minus the zero points of a group, for QuantLinearArgs' `part`; false: part starts from 0.
template <bool int8>
inline bool NegatedZeros(const QuantLinearArgs& args, int64_t slot, __m512& zeros) {
  if (args.zeros == nullptr) {
    zeros = _mm512_set1_ps(int8 ? 0.0f : -8.0f);
    return !int8;
  }
  const __m512i bytes =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(args.zeros + slot)));
  zeros = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_set1_epi32(int8 ? 128 : 0), bytes));
  return true;
}

inline __m512 GroupScales(const QuantLinearArgs& args, int64_t slot) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(args.scales + slot)));
}

inline void StoreOutputs(const QuantLinearArgs& args, int64_t panel, int64_t row, __m512 value,
                         bool around_caches) {
  const int64_t column = panel * kPanelColumns;
  const int64_t columns = Min(kPanelColumns, args.out_features - column);
  const auto mask = static_cast<__mmask16>(0xffffu >> (kPanelColumns - columns));
  float* out = args.out + row * args.out_features + column;
  if (args.bias != nullptr) {
    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, args.bias + column));
  }
  if (around_caches && columns == kPanelColumns) {
    _mm512_stream_ps(out, value);
  } else {
    _mm512_mask_storeu_ps(out, mask, value);
  }
}

// Which weights a pass over a panel asks for: those `blocks` ahead of each of its blocks number
// `turn` mod `turns`.
struct PrefetchShare {
  int64_t blocks, turn, turns;
};

// One panel for a few rows from `row` on, the weights straight from memory.
template <bool int8, int rows>
void StreamPanel(const QuantLinearArgs& args, const QuantShape& shape, int64_t panel, int64_t row,
                 const PrefetchShare& prefetch) {
  constexpr int64_t kBlockBytes = int8 ? 512 : 256;
  int64_t until_turn = prefetch.turn;
  const QuantActivations& x = args.x;
  const uint8_t* weight = BlockOf<int8>(args, panel, 0);
  __m512 acc[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) acc[r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < shape.groups; ++g) {
    const int64_t slot = (panel * shape.groups + g) * kPanelColumns;
    __m512 part[rows], zeros;
    const bool has_zeros = NegatedZeros<int8>(args, slot, zeros);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      part[r] = has_zeros ? _mm512_mul_ps(zeros, _mm512_set1_ps(x.sums[g * x.rows + row + r]))
                          : _mm512_setzero_ps();
    }
    const int64_t end = Min((g + 1) * shape.group_blocks, shape.blocks);
    for (int64_t b = g * shape.group_blocks; b < end; ++b) {
      const int8_t* codes = x.codes + (b * x.rows + row) * 32;
      // Four bits are bound by arithmetic where rows need several passes: no turns.
      const bool ask = !int8 || until_turn == 0;
      until_turn = ask ? prefetch.turns - 1 : until_turn - 1;
      const int64_t distance = int8 ? prefetch.blocks : kPrefetchBlocks;
      const auto* ahead = reinterpret_cast<const char*>(weight + distance * kBlockBytes);
      __m512i dot[rows];
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) dot[r] = StartSum<int8>(x, b, row + r);
#pragma GCC unroll 4
      for (int64_t i = 0; i < kBlockUnits / 2; ++i) {
        constexpr int64_t kStep = kBlockBytes / (kBlockUnits / 2);
        // Line by line: asking for a whole block at once holds up the loads.
        if (ask) _mm_prefetch(ahead + i * kStep, _MM_HINT_T0);
        if (ask && kStep > 64) _mm_prefetch(ahead + i * kStep + 64, _MM_HINT_T0);
        __m512i first, second;
        LoadUnits<int8>(weight, i, first, second);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
          dot[r] = _mm512_dpbusd_epi32(dot[r], first, Broadcast4(codes + r * 32 + i * 8));
          dot[r] = _mm512_dpbusd_epi32(dot[r], second, Broadcast4(codes + r * 32 + i * 8 + 4));
        }
      }
      weight += kBlockBytes;
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        part[r] = _mm512_fmadd_ps(_mm512_set1_ps(x.scales[b * x.rows + row + r]),
                                  _mm512_cvtepi32_ps(dot[r]), part[r]);
      }
    }
    const __m512 scale = GroupScales(args, slot);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) acc[r] = _mm512_fmadd_ps(part[r], scale, acc[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) StoreOutputs(args, panel, row + r, acc[r], false);
}

// Some blocks of one group, of one or two panels, for all rows of a row block.
struct QuantChunk {
  int64_t block, blocks;
  int64_t group;
  bool first, last;  // of its group
  int64_t row;       // the first one, of x
  int64_t rows;
  __m512 zeros[2], scales[2];
  bool has_zeros;
};

// Sums of a row block: [rows][2 panels][16].
struct QuantSums {
  alignas(64) float acc[kQuantRowBlock * 2 * kPanelColumns];
  // The sums of a group that goes on in the next chunk.
  alignas(64) float part[kQuantRowBlock * 2 * kPanelColumns];
  // [blocks][units][panels][64]
  alignas(64) uint8_t weights[kChunkBlocks * kBlockUnits * 2 * 64];
};

template <bool int8, int panels>
void UnpackChunk(const QuantLinearArgs& args, int64_t panel, const QuantChunk& chunk,
                 uint8_t* out) {
  constexpr int64_t kStep = int8 ? 128 : 64;
  for (int p = 0; p < panels; ++p) {
    const uint8_t* weight = BlockOf<int8>(args, panel + p, chunk.block);
    const uint8_t* next = BlockOf<int8>(args, panel + p + panels, chunk.block);
    for (int64_t i = 0; i < chunk.blocks * kBlockUnits / 2; ++i) {
      for (int64_t line = 0; line < kStep; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(next + i * kStep + line), _MM_HINT_T1);
      }
      __m512i first, second;
      LoadUnits<int8>(weight, i, first, second);
      _mm512_store_si512(out + (2 * i * panels + p) * 64, first);
      _mm512_store_si512(out + ((2 * i + 1) * panels + p) * 64, second);
    }
  }
}

// `row` is of the row block.
template <bool int8, int rows, int panels>
void ChunkTile(const QuantActivations& x, const QuantChunk& chunk, int64_t row, QuantSums& sums) {
  const int64_t x_row = chunk.row + row;
  __m512 part[rows][panels];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const __m512 sum = _mm512_set1_ps(x.sums[chunk.group * x.rows + x_row + r]);
#pragma GCC unroll 2
    for (int p = 0; p < panels; ++p) {
      if (!chunk.first) {
        part[r][p] = _mm512_load_ps(sums.part + ((row + r) * 2 + p) * kPanelColumns);
      } else {
        part[r][p] = chunk.has_zeros ? _mm512_mul_ps(chunk.zeros[p], sum) : _mm512_setzero_ps();
      }
    }
  }
  const uint8_t* weights = sums.weights;
  for (int64_t b = chunk.block; b < chunk.block + chunk.blocks; ++b) {
    const int8_t* codes = x.codes + (b * x.rows + x_row) * 32;
    __m512i dot[rows][panels];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) dot[r][p] = StartSum<int8>(x, b, x_row + r);
    }
#pragma GCC unroll 8
    for (int64_t u = 0; u < kBlockUnits; ++u) {
      __m512i w[panels];
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) {
        w[p] = _mm512_load_si512(weights);
        weights += 64;
        // Or the compiler loads it again for each row.
        asm volatile("" : "+v"(w[p]));
      }
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        __m512i four = Broadcast4(codes + r * 32 + u * 4);
        asm volatile("" : "+v"(four));
#pragma GCC unroll 2
        for (int p = 0; p < panels; ++p) dot[r][p] = _mm512_dpbusd_epi32(dot[r][p], w[p], four);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const __m512 scale = _mm512_set1_ps(x.scales[b * x.rows + x_row + r]);
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) {
        part[r][p] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot[r][p]), part[r][p]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < panels; ++p) {
      const int64_t i = ((row + r) * 2 + p) * kPanelColumns;
      if (chunk.last) {
        _mm512_store_ps(sums.acc + i,
                        _mm512_fmadd_ps(part[r][p], chunk.scales[p], _mm512_load_ps(sums.acc + i)));
      } else {
        _mm512_store_ps(sums.part + i, part[r][p]);
      }
    }
  }
}

template <bool int8, int panels>
void ChunkRows(const QuantActivations& x, const QuantChunk& chunk, QuantSums& sums) {
  const int64_t tiles = (chunk.rows + kTileRows - 1) / kTileRows;
  int64_t row = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    // Nearly equal heights.
    const int64_t height = (chunk.rows - row + tiles - t - 1) / (tiles - t);
    switch (height) {
      case 1:
        ChunkTile<int8, 1, panels>(x, chunk, row, sums);
        break;
      case 2:
        ChunkTile<int8, 2, panels>(x, chunk, row, sums);
        break;
      case 3:
        ChunkTile<int8, 3, panels>(x, chunk, row, sums);
        break;
      case 4:
        ChunkTile<int8, 4, panels>(x, chunk, row, sums);
        break;
      case 5:
        ChunkTile<int8, 5, panels>(x, chunk, row, sums);
        break;
      case 6:
        ChunkTile<int8, 6, panels>(x, chunk, row, sums);
        break;
    }
    row += height;
  }
}

// Outputs that no cache holds are better not fetched before they are written.
inline bool StoresAroundCaches(const QuantLinearArgs& args) {
  constexpr int64_t kCacheFloats = 1 << 20;
  return args.x.rows * args.out_features >= kCacheFloats &&
         args.out_features % kPanelColumns == 0 && reinterpret_cast<uintptr_t>(args.out) % 64 == 0;
}

// Asks for the outputs of a row block, a share with each chunk: stores to memory far away would
// otherwise come in a burst.
inline void PrefetchOutputs(const QuantLinearArgs& args, int64_t panel, int panels,
                            const QuantChunk& chunk, int64_t blocks) {
  const int64_t begin = chunk.rows * chunk.block / blocks;
  const int64_t end = chunk.rows * (chunk.block + chunk.blocks) / blocks;
  for (int64_t r = begin; r < end; ++r) {
    const float* out = args.out + (chunk.row + r) * args.out_features + panel * kPanelColumns;
    for (int p = 0; p < panels; ++p) {
      _mm_prefetch(reinterpret_cast<const char*>(out + p * kPanelColumns), _MM_HINT_T1);
    }
  }
}

template <bool int8, int panels>
void BlockedPanels(const QuantLinearArgs& args, const QuantShape& shape, int64_t panel) {
  QuantSums sums;
  const bool around_caches = StoresAroundCaches(args);
  for (int64_t row = 0; row < args.x.rows; row += kQuantRowBlock) {
    QuantChunk chunk;
    chunk.row = row;
    chunk.rows = Min(kQuantRowBlock, args.x.rows - row);
    for (int64_t i = 0; i < chunk.rows * 2; ++i) {
      _mm512_store_ps(sums.acc + i * kPanelColumns, _mm512_setzero_ps());
    }
    for (int64_t g = 0; g < shape.groups; ++g) {
      chunk.group = g;
      for (int p = 0; p < panels; ++p) {
        const int64_t slot = ((panel + p) * shape.groups + g) * kPanelColumns;
        chunk.has_zeros = NegatedZeros<int8>(args, slot, chunk.zeros[p]);
        chunk.scales[p] = GroupScales(args, slot);
      }
      const int64_t begin = g * shape.group_blocks;
      const int64_t end = Min(begin + shape.group_blocks, shape.blocks);
      for (int64_t b = begin; b < end; b += kChunkBlocks) {
        chunk.block = b;
        chunk.blocks = Min(kChunkBlocks, end - b);
        chunk.first = b == begin;
        chunk.last = b + chunk.blocks == end;
        if (!around_caches) PrefetchOutputs(args, panel, panels, chunk, shape.blocks);
        UnpackChunk<int8, panels>(args, panel, chunk, sums.weights);
        ChunkRows<int8, panels>(args.x, chunk, sums);
      }
    }
    for (int64_t r = 0; r < chunk.rows; ++r) {
      for (int p = 0; p < panels; ++p) {
        StoreOutputs(args, panel + p, row + r,
                     _mm512_load_ps(sums.acc + (r * 2 + p) * kPanelColumns), around_caches);
      }
    }
  }
}

template <bool int8>
void StreamRows(const QuantLinearArgs& args, const QuantShape& shape, int64_t panel) {
  const int64_t tiles = (args.x.rows + kMaxStreamRows - 1) / kMaxStreamRows;
  int64_t row = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t height = (args.x.rows - row + tiles - t - 1) / (tiles - t);
    // Of several passes over a panel each brings in a share of the next one.
    const PrefetchShare prefetch = {tiles == 1 ? kPrefetchBlocks : shape.blocks, t, tiles};
    switch (height) {
      case 1:
        StreamPanel<int8, 1>(args, shape, panel, row, prefetch);
        break;
      case 2:
        StreamPanel<int8, 2>(args, shape, panel, row, prefetch);
        break;
      case 3:
        StreamPanel<int8, 3>(args, shape, panel, row, prefetch);
        break;
      case 4:
        StreamPanel<int8, 4>(args, shape, panel, row, prefetch);
        break;
      case 5:
        StreamPanel<int8, 5>(args, shape, panel, row, prefetch);
        break;
      case 6:
        StreamPanel<int8, 6>(args, shape, panel, row, prefetch);
        break;
      case 7:
        StreamPanel<int8, 7>(args, shape, panel, row, prefetch);
        break;
      case 8:
        StreamPanel<int8, 8>(args, shape, panel, row, prefetch);
        break;
    }
    row += height;
  }
}

template <bool int8>
void QuantLinearPanels(const QuantLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                       float* /*scratch*/) {
  const QuantShape shape(args);
  int64_t panel = panel_begin;
  if (args.x.rows >= kBlockedFromRows) {
    for (; panel + 2 <= panel_end; panel += 2) BlockedPanels<int8, 2>(args, shape, panel);
    if (panel < panel_end) BlockedPanels<int8, 1>(args, shape, panel);
    _mm_sfence();  // what went around the caches is there for the other threads, too
    return;
  }
  for (; panel < panel_end; ++panel) StreamRows<int8>(args, shape, panel);
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_QUANT_AVX512_INL_H_
