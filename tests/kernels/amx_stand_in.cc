// The AMX kernels over tile instructions in plain C++, as Intel's instruction set reference defines
// them.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernels/dtype.h"
#include "tests/kernels/table_check.h"

namespace qwenserve {
namespace {

constexpr int kTiles = 8, kMaxRows = 16, kMaxRowBytes = 64;

struct TileState {
  uint8_t rows = 0;
  uint16_t row_bytes = 0;
  std::array<std::array<uint8_t, kMaxRowBytes>, kMaxRows> data{};
};

std::array<TileState, kTiles> tiles;
bool configured = false;

// What would be an invalid opcode or a fault.
void Require(bool valid) {
  if (!valid) std::abort();
}

void _tile_loadconfig(const void* config) {
  const auto* bytes = static_cast<const uint8_t*>(config);
  Require(bytes[0] == 1 && bytes[1] == 0);
  for (int i = 2; i < 16; ++i) Require(bytes[i] == 0);
  for (int t = 0; t < kTiles; ++t) {
    tiles[t] = {};
    std::memcpy(&tiles[t].row_bytes, bytes + 16 + 2 * t, 2);
    tiles[t].rows = bytes[48 + t];
    Require(tiles[t].rows <= kMaxRows && tiles[t].row_bytes <= kMaxRowBytes);
  }
  configured = true;
}

void _tile_release() { configured = false; }

void _tile_zero(int tile) {
  Require(configured);
  tiles[tile].data = {};
}

void _tile_loadd(int tile, const void* base, int64_t stride) {
  Require(configured && tiles[tile].rows > 0);
  tiles[tile].data = {};
  for (int r = 0; r < tiles[tile].rows; ++r) {
    std::memcpy(tiles[tile].data[r].data(), static_cast<const char*>(base) + r * stride,
                tiles[tile].row_bytes);
  }
}

void _tile_stored(int tile, void* base, int64_t stride) {
  Require(configured && tiles[tile].rows > 0);
  for (int r = 0; r < tiles[tile].rows; ++r) {
    std::memcpy(static_cast<char*>(base) + r * stride, tiles[tile].data[r].data(),
                tiles[tile].row_bytes);
  }
}

// c[m][n] += the four products of signed bytes a[m][4 k + j] * b[k][4 n + j], for all k.
void _tile_dpbssd(int c, int a, int b) {
  Require(configured && tiles[c].rows == tiles[a].rows);
  Require(tiles[c].row_bytes == tiles[b].row_bytes && tiles[a].row_bytes == 4 * tiles[b].rows);
  for (int m = 0; m < tiles[c].rows; ++m) {
    for (int n = 0; n < tiles[c].row_bytes / 4; ++n) {
      int32_t sum;
      std::memcpy(&sum, &tiles[c].data[m][4 * n], 4);
      for (int k = 0; k < tiles[b].rows; ++k) {
        for (int j = 0; j < 4; ++j) {
          sum += static_cast<int8_t>(tiles[a].data[m][4 * k + j]) *
                 static_cast<int8_t>(tiles[b].data[k][4 * n + j]);
        }
      }
      std::memcpy(&tiles[c].data[m][4 * n], &sum, 4);
    }
  }
}

inline float HalfToFloat(uint16_t bits) { return F16ToFloat(bits); }
#include "kernels/cpu/isa/amx_inl.h"

}  // namespace

const KernelTable* AmxStandIn() {
  static const KernelTable kernels = [] {
    KernelTable table = kPortableKernels;
    table.name = "amx (stand-in)";
    table.quant_linear[0] = AmxQuantLinear<AmxInt8>;
    table.quant_linear[1] = AmxQuantLinear<AmxInt4>;
    return table;
  }();
  return &kernels;
}

}  // namespace qwenserve
