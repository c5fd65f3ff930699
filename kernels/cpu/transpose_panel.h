#ifndef QWENSERVE_KERNELS_CPU_TRANSPOSE_PANEL_H_
#define QWENSERVE_KERNELS_CPU_TRANSPOSE_PANEL_H_

#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {

// Square tiles of as many elements as 16 bytes hold, transposed by rounds that interleave row i
// with row i + half: what every instruction set has, so that packing needs no table of its own.
template <typename T>
struct TransposeTile;

template <>
struct TransposeTile<uint16_t> {
  using Vector = uint16_t __attribute__((vector_size(16)));
  static constexpr int kSize = 8;
  static Vector Low(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  }
  static Vector High(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  }
};

template <>
struct TransposeTile<uint32_t> {
  using Vector = uint32_t __attribute__((vector_size(16)));
  static constexpr int kSize = 4;
  static Vector Low(Vector a, Vector b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
  static Vector High(Vector a, Vector b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
};

// panel[k * 16 + r] = element k of rows[r], for k < count. Rows need no alignment. T: uint16_t or
// uint32_t.
template <typename T>
void TransposePanel(const void* const* rows, int64_t count, T* panel) {
  using Tile = TransposeTile<T>;
  constexpr int kSize = Tile::kSize;
  int64_t k = 0;
  for (; k + kSize <= count; k += kSize) {
    for (int first = 0; first < kPanelColumns; first += kSize) {
      typename Tile::Vector tile[kSize], next[kSize];
      for (int i = 0; i < kSize; ++i) {
        std::memcpy(&tile[i], static_cast<const char*>(rows[first + i]) + k * sizeof(T), 16);
      }
      for (int round = 1; round < kSize; round *= 2) {
        for (int i = 0; i < kSize / 2; ++i) {
          next[2 * i] = Tile::Low(tile[i], tile[i + kSize / 2]);
          next[2 * i + 1] = Tile::High(tile[i], tile[i + kSize / 2]);
        }
        for (int i = 0; i < kSize; ++i) tile[i] = next[i];
      }
      for (int i = 0; i < kSize; ++i) {
        std::memcpy(panel + (k + i) * kPanelColumns + first, &tile[i], 16);
      }
    }
  }
  for (; k < count; ++k) {
    for (int r = 0; r < kPanelColumns; ++r) {
      std::memcpy(panel + k * kPanelColumns + r, static_cast<const char*>(rows[r]) + k * sizeof(T),
                  sizeof(T));
    }
  }
}

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_TRANSPOSE_PANEL_H_
