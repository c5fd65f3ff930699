#ifndef QWENSERVE_KERNELS_CPU_ISA_AMX_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_AMX_INL_H_

// Quantised products by the tile instructions: 16 rows by 16 outputs over a block of 32 inputs in
// one tdpbssd. A packed block of int8 weights is the instruction's right operand as it lies in
// memory, one of int4 weights after unpacking. Block sums are exact integers and all that follows
// is in the order of QuantLinearArgs, so the bits are those of quant_linear_inl.h.
//
// The including file gives the tile intrinsics _tile_loadconfig, _tile_release, _tile_zero,
// _tile_loadd, _tile_dpbssd and _tile_stored (the test's are stand-ins in plain C++) and
//   HalfToFloat(bits)
// It is included inside an anonymous namespace (see kernel_table.h).

constexpr int64_t kTileRows = 16;
// Rows that pass over a block of weights together: their sums (8 KiB) stay in the first cache.
constexpr int64_t kAmxRowTile = 64;

// The operand of ldtilecfg.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// Tiles: 0 the sums, 1 the activations and 2 the weights of 16 rows; 3 and 4 sums and activations
// of the last `rest` rows.
inline TileConfig ConfigFor(int64_t rest) {
  TileConfig config;
  const auto set = [&config](int tile, int64_t rows, uint16_t row_bytes) {
    config.rows[tile] = static_cast<uint8_t>(rows);
    config.row_bytes[tile] = row_bytes;
  };
  set(0, kTileRows, 64);
  set(1, kTileRows, 32);
  set(2, 8, 64);
  set(3, rest == 0 ? kTileRows : rest, 64);
  set(4, rest == 0 ? kTileRows : rest, 32);
  return config;
}

struct AmxInt8 {
  static constexpr int64_t kBlockBytes = 512;
  static constexpr bool kZeroAlways = false;
  static constexpr int kMiddle = 128;
  static const uint8_t* Unpack(const uint8_t* block, uint8_t* /*room*/) { return block; }
};

struct AmxInt4 {
  static constexpr int64_t kBlockBytes = 256;
  static constexpr bool kZeroAlways = true;  // codes are stored as they are
  static constexpr int kMiddle = 0;
  static const uint8_t* Unpack(const uint8_t* block, uint8_t* room) {
    for (int64_t unit = 0; unit < 4; ++unit) {
      for (int64_t i = 0; i < 64; ++i) {
        room[unit * 128 + i] = block[unit * 64 + i] & 15;
        room[unit * 128 + 64 + i] = block[unit * 64 + i] >> 4;
      }
    }
    return room;
  }
};

// part[r][c] = fma(scales[r], sums of the block with the weights in tile 2, part[r][c]).
inline void AddAmxBlock(int64_t rows, const int8_t* x, const float* scales, float* part) {
  alignas(64) int32_t sums[kTileRows * kPanelColumns];
  for (int64_t first = 0; first < rows; first += kTileRows) {
    const int64_t count = rows - first < kTileRows ? rows - first : kTileRows;
    const int8_t* codes = x + first * 32;
    if (count == kTileRows) {
      _tile_zero(0);
      _tile_loadd(1, codes, 32);
      _tile_dpbssd(0, 1, 2);
      _tile_stored(0, sums, 64);
    } else {
      _tile_zero(3);
      _tile_loadd(4, codes, 32);
      _tile_dpbssd(3, 4, 2);
      _tile_stored(3, sums, 64);
    }
    for (int64_t r = 0; r < count; ++r) {
      const float scale = scales[first + r];
      float* to = part + (first + r) * kPanelColumns;
      for (int64_t c = 0; c < kPanelColumns; ++c) {
        const float sum = static_cast<float>(sums[r * kPanelColumns + c]);
        to[c] = __builtin_fmaf(scale, sum, to[c]);
      }
    }
  }
}

template <typename Format>
void AmxRowTile(const QuantLinearArgs& args, int64_t panel, int64_t row, int64_t rows) {
  alignas(64) float part[kAmxRowTile * kPanelColumns], acc[kAmxRowTile * kPanelColumns];
  alignas(64) uint8_t room[512];
  const int64_t blocks = args.packed_inputs / 32, group_blocks = args.group_size / 32;
  const int64_t groups = (blocks + group_blocks - 1) / group_blocks;
  const uint8_t* w =
      static_cast<const uint8_t*>(args.weight) + panel * blocks * Format::kBlockBytes;
  const bool zeros = Format::kZeroAlways || args.zeros != nullptr;
  for (int64_t i = 0; i < rows * kPanelColumns; ++i) acc[i] = 0;
  for (int64_t g = 0, b = 0; g < groups; ++g) {
    const int64_t slot = (panel * groups + g) * kPanelColumns;
    float zero[kPanelColumns], scale[kPanelColumns];
    for (int64_t c = 0; c < kPanelColumns; ++c) {
      scale[c] = HalfToFloat(args.scales[slot + c]);
      zero[c] =
          args.zeros == nullptr ? 8.0f : static_cast<float>(args.zeros[slot + c] - Format::kMiddle);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float sum = args.x.sums[g * args.x.rows + row + r];
      float* to = part + r * kPanelColumns;
      for (int64_t c = 0; c < kPanelColumns; ++c) to[c] = zeros ? -(zero[c] * sum) : 0.0f;
    }
    const int64_t last = b + group_blocks < blocks ? b + group_blocks : blocks;
    for (; b < last; ++b, w += Format::kBlockBytes) {
      const uint8_t* weights = Format::Unpack(w, room);
      // The compiler does not know that the tile intrinsics read memory.
      asm volatile("" : : : "memory");
      _tile_loadd(2, weights, 64);
      const int64_t first = b * args.x.rows + row;
      AddAmxBlock(rows, args.x.codes + first * 32, args.x.scales + first, part);
    }
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < kPanelColumns; ++c) {
        const int64_t at = r * kPanelColumns + c;
        acc[at] = __builtin_fmaf(part[at], scale[c], acc[at]);
      }
    }
  }
  const int64_t column = panel * kPanelColumns;
  for (int64_t r = 0; r < rows; ++r) {
    float* out = args.out + (row + r) * args.out_features;
    for (int64_t c = column; c < args.out_features && c < column + kPanelColumns; ++c) {
      const float value = acc[r * kPanelColumns + c - column];
      out[c] = args.bias == nullptr ? value : value + args.bias[c];
    }
  }
}

template <typename Format>
void AmxQuantLinear(const QuantLinearArgs& args, int64_t panel_begin, int64_t panel_end,
                    float* /*scratch*/) {
  const TileConfig config = ConfigFor(args.x.rows % kTileRows);
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
  for (int64_t row = 0; row < args.x.rows; row += kAmxRowTile) {
    const int64_t count = args.x.rows - row < kAmxRowTile ? args.x.rows - row : kAmxRowTile;
    for (int64_t p = panel_begin; p < panel_end; ++p) AmxRowTile<Format>(args, p, row, count);
  }
  _tile_release();
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_AMX_INL_H_
