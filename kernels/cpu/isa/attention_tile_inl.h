#ifndef QWENSERVE_KERNELS_CPU_ISA_ATTENTION_TILE_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_ATTENTION_TILE_INL_H_

// The two products of attention, scores = q K and sums += p V, as tiles of independent chains of
// fused multiply-adds. Included by attention_inl.h, which says what the including file gives.

constexpr int kGroupPanels = 4;  // panels of 16 columns that one call works on
constexpr int kAttentionTileRows = 6;
constexpr int kVectorFloats = static_cast<int>(kPanelColumns) / kPanelVectors;

inline Vf Broadcast(float value) { return value - Vf{}; }  // -0 stays -0, unlike with 0 + value

inline Vf LoadVf(const float* p) {
  Vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline void StoreVf(float* p, Vf v) { __builtin_memcpy(p, &v, sizeof v); }

// Panels at once for so many rows: what the registers hold.
constexpr int TilePanels(int rows) {
  const int panels = kTileSums / (rows * kPanelVectors);
  return panels < 1 ? 1 : panels > kGroupPanels ? kGroupPanels : panels;
}

// c[r][16 p + j] = add ? c : 0, then a chain over i ascending of fma(a[r][i], b[p][i * ldb + j],
// .). next: null, or what to ask the memory for meanwhile, as large as b.
template <typename Format, int rows, int panels, bool prefetch>
inline void AttentionTile(const float* a, int64_t lda, const typename Format::Storage* const* b,
                          const typename Format::Storage* const* next, int64_t ldb, int64_t k,
                          bool add, float* c, int64_t ldc) {
  constexpr int kVectors = panels * kPanelVectors;
  Vf sum[rows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = add ? LoadVf(c + r * ldc + v * kVectorFloats) : Vf{};
    }
  }
  const typename Format::Storage* from[panels];
  const typename Format::Storage* ahead[panels];
#pragma GCC unroll 4
  for (int p = 0; p < panels; ++p) {
    from[p] = b[p];
    if constexpr (prefetch) ahead[p] = next[p];
  }
  for (int64_t i = 0; i < k; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      if constexpr (prefetch) __builtin_prefetch(ahead[p] + i * ldb);
      Vf w[kPanelVectors];
      LoadPanel<Format>(from[p] + i * ldb, w);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const Vf x = Broadcast(a[r * lda + i]);
#pragma GCC unroll 2
        for (int v = 0; v < kPanelVectors; ++v) {
          sum[r][p * kPanelVectors + v] = Fma(x, w[v], sum[r][p * kPanelVectors + v]);
        }
      }
      // With few registers the next panel loads its factors anew: kept over panels, they would push
      // sums out.
      if constexpr (panels > 1 && kPanelVectors > 1) asm volatile("" ::: "memory");
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) StoreVf(c + r * ldc + v * kVectorFloats, sum[r][v]);
  }
}

// One height, any number of panels up to kGroupPanels.
template <typename Format, int rows, bool prefetch>
void AttentionTileRow(int panels, const float* a, int64_t lda,
                      const typename Format::Storage* const* b,
                      const typename Format::Storage* const* next, int64_t ldb, int64_t k, bool add,
                      float* c, int64_t ldc) {
  constexpr int kMost = TilePanels(rows);
  int p = 0;
  for (; p + kMost <= panels; p += kMost) {
    AttentionTile<Format, rows, kMost, prefetch>(a, lda, b + p, next + p, ldb, k, add,
                                                 c + p * kPanelColumns, ldc);
  }
  if constexpr (kMost > 2) {
    for (; p + 2 <= panels; p += 2) {
      AttentionTile<Format, rows, 2, prefetch>(a, lda, b + p, next + p, ldb, k, add,
                                               c + p * kPanelColumns, ldc);
    }
  }
  if constexpr (kMost > 1) {
    for (; p < panels; ++p) {
      AttentionTile<Format, rows, 1, prefetch>(a, lda, b + p, next + p, ldb, k, add,
                                               c + p * kPanelColumns, ldc);
    }
  }
}

// Any number of rows, as tiles of nearly equal height.
template <typename Format, bool prefetch>
void AttentionTiles(int64_t rows, int panels, const float* a, int64_t lda,
                    const typename Format::Storage* const* b,
                    const typename Format::Storage* const* next, int64_t ldb, int64_t k, bool add,
                    float* c, int64_t ldc) {
  for (int64_t tiles = (rows + kAttentionTileRows - 1) / kAttentionTileRows; rows > 0; --tiles) {
    const int64_t height = (rows + tiles - 1) / tiles;
    const auto run = [&]<int count>() {
      AttentionTileRow<Format, count, prefetch>(panels, a, lda, b, next, ldb, k, add, c, ldc);
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
      default:
        run.template operator()<6>();
        break;
    }
    a += height * lda;
    c += height * ldc;
    rows -= height;
  }
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_ATTENTION_TILE_INL_H_
