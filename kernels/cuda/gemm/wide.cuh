#ifndef QWENSERVE_KERNELS_CUDA_GEMM_WIDE_CUH_
#define QWENSERVE_KERNELS_CUDA_GEMM_WIDE_CUH_

// The product of many rows. The parts of the inputs, which skinny blocks give to their warps, come
// one after the other here; their sums are added in the same order.
#include <type_traits>

#include "kernels/cuda/gemm/granule.cuh"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

template <FragmentFormat kFormat, int kVariant>
struct Wide {
  using Args = LinearKernelArgs;
  static constexpr int kRows = kWideRows[kVariant];
  static constexpr int kColumns = WideColumns(kRows);
  static constexpr int kTiles = kWideWarpTiles;
  static constexpr StageLayout kStage = WideStage(kFormat, kRows);
  static constexpr int kStages = WideStages(kFormat, kRows);
  static constexpr bool kTotalsInShared = WideTotalBytes(kFormat, kRows) > 0;
  static constexpr int kElements = WideElements(kRows);
  static constexpr int kThreads = kWideThreads;
  static constexpr int kMinBlocks = kRows == 64 ? 2 : 1;
  using WarpSums = Sums<kTiles, kColumns>;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    Where at;
    at.first_row = static_cast<int>(BlockIndex().x) * kRows;
    at.rows = args.rows - at.first_row < kRows ? args.rows - at.first_row : kRows;
    at.first_slot = static_cast<int>(BlockIndex().y) * kWideTiles;
    at.first_part = static_cast<int>(BlockIndex().z) * args.parts_per_block;
    at.begin = PartBegin(args.weight.granules, args.parts, at.first_part);
    at.end = PartBegin(args.weight.granules, args.parts, at.first_part + args.parts_per_block);
    const bool whole = GridSize().z == 1;
    const int64_t block = static_cast<int64_t>(BlockIndex().y) * GridSize().x + BlockIndex().x;
    float* partials = args.partials + block * args.parts * kElements;

    WeightCopier<kFormat, kWideTiles, kRows, kThreads> weights(args, at.first_slot, at.begin,
                                                               ThreadIndex());
    XCopier<kFormat, kThreads> x(args, at.first_row, at.rows, at.begin, ThreadIndex());
    Ring ring = Begin(args, at, &weights, &x);
    WarpSums total;
    if constexpr (kTotalsInShared) {
      PutTotals<false>(total);
    } else {
      total.Clear();
    }
    int granule = at.begin;
    QS_NO_UNROLL
    for (int part = at.first_part; part < at.first_part + args.parts_per_block; ++part) {
      PartSum<kFormat, kTiles, kColumns> sum;
      const int end = PartBegin(args.weight.granules, args.parts, part + 1);
      sum.Begin(args, granule);
      QS_NO_UNROLL
      for (; granule < end; ++granule) {
        Step(args, granule + kStages - 1 < at.end, granule + 1 == end, &weights, &x, &ring, &sum);
      }
      if (!whole) {
        PutPartial(sum.sum, partials + part * kElements);
      } else if constexpr (kTotalsInShared) {
        PutTotals<true>(sum.sum);
      } else {
        total.Add(sum.sum);
      }
    }
    if (!whole) {
      CopyAsyncWait<0>();
      if (!LastToArrive(args.arrivals + block, static_cast<int>(GridSize().z), SharedMemory())) {
        return;
      }
      TakePartials(partials, args.parts, &total);
    } else if constexpr (kTotalsInShared) {
      TakeTotals(&total);
    }
    Finish(args, at, total);
  }

 private:
  struct Where {
    int first_row = 0, rows = 0, first_slot = 0, first_part = 0, begin = 0, end = 0;
  };

  using Weights = WeightCopier<kFormat, kWideTiles, kRows, kThreads>;
  using X = XCopier<kFormat, kThreads>;

  // The stage that is multiplied, and the one to copy to.
  struct Ring {
    char *stage, *ahead;
  };

  QS_DEVICE static int FirstRowOfWarp() { return WarpIndex() % kWideWarpsAlongRows * kColumns * 8; }
  // Of up to 32 rows half of the warps have none: they only copy, and their sums are zeros. Asked
  // only of what multiplication limits, as it costs registers.
  QS_DEVICE static bool HasRows(const Args& args) {
    if constexpr (kFormat != FragmentFormat::kInt4) {
      return true;
    } else {
      return WarpIndex() % kWideWarpsAlongRows == 0 || args.rows > kRows / kWideWarpsAlongRows;
    }
  }
  QS_DEVICE static char* FirstStage() { return SharedMemory() + WideTotalBytes(kFormat, kRows); }

  QS_DEVICE static Ring Begin(const Args& args, const Where& at, Weights* weights, X* x) {
    char* const first = FirstStage();
    QS_NO_UNROLL
    for (int s = 0; s < kStages - 1; ++s) {
      if (at.begin + s < at.end) weights->Copy(args, first + s * kStage.bytes);
    }
    QS_NO_UNROLL
    for (int s = 0; s < kStages; ++s) {
      ClearMissingRows<kFormat>(first + s * kStage.bytes + kStage.x, at.rows, kRows, ThreadIndex(),
                                kThreads);
    }
    GridDependencyWait();
    QS_NO_UNROLL
    for (int s = 0; s < kStages - 1; ++s) {
      if (at.begin + s < at.end) x->Copy(args, first + s * kStage.bytes + kStage.x);
      CopyAsyncCommit();  // the first one with all weights
    }
    return {first, first + (kStages - 1) * kStage.bytes};
  }

  QS_DEVICE static void Step(const Args& args, bool more, bool last, Weights* weights, X* x,
                             Ring* ring, PartSum<kFormat, kTiles, kColumns>* sum) {
    CopyAsyncWait<kStages - 2>();
    SyncThreads();
    if (more) {
      weights->Copy(args, ring->ahead);
      x->Copy(args, ring->ahead + kStage.x);
    }
    CopyAsyncCommit();
    const int tile = WarpIndex() / kWideWarpsAlongRows * kTiles;
    const int row = FirstRowOfWarp();
    const char* stage = ring->stage;
    if (HasRows(args)) {
      sum->AddGranule(args, stage + tile * GranuleBytes(kFormat),
                      stage + kStage.x + XOffset<kFormat>(row, 0),
                      stage + kStage.scales + tile * ScaleBytes(kFormat),
                      stage + kStage.zeros + tile * ZeroBytes(kFormat), last);
    }
    ring->ahead = ring->stage;
    ring->stage += kStage.bytes;
    if (ring->stage == FirstStage() + kStages * kStage.bytes) ring->stage = FirstStage();
  }

  // Where a thread keeps four sums, [tile][column][thread].
  QS_DEVICE static Float4* Quad(float* base, int m, int n) {
    return reinterpret_cast<Float4*>(base) + (m * kColumns + n) * kThreads + ThreadIndex();
  }
  QS_DEVICE static const Float4* Quad(const float* base, int m, int n) {
    return reinterpret_cast<const Float4*>(base) + (m * kColumns + n) * kThreads + ThreadIndex();
  }

  // The totals in shared memory: zeros, or += sum.
  template <bool kAdd>
  QS_DEVICE static void PutTotals(const WarpSums& sum) {
    auto* totals = reinterpret_cast<float*>(SharedMemory());
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      QS_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        Float4 quad;
        if constexpr (kAdd) {
          quad = *Quad(totals, m, n);
          quad.x = quad.x + sum.of[m][n][0];
          quad.y = quad.y + sum.of[m][n][1];
          quad.z = quad.z + sum.of[m][n][2];
          quad.w = quad.w + sum.of[m][n][3];
        }
        *Quad(totals, m, n) = quad;
      }
    }
  }

  QS_DEVICE static void TakeTotals(WarpSums* total) {
    const auto* totals = reinterpret_cast<const float*>(SharedMemory());
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      QS_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        const Float4 quad = *Quad(totals, m, n);
        total->of[m][n][0] = quad.x;
        total->of[m][n][1] = quad.y;
        total->of[m][n][2] = quad.z;
        total->of[m][n][3] = quad.w;
      }
    }
  }

  QS_DEVICE static void PutPartial(const WarpSums& sum, float* to) {
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      QS_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        const float* of = sum.of[m][n];
        *Quad(to, m, n) = Float4{of[0], of[1], of[2], of[3]};
      }
    }
  }

  QS_DEVICE static void TakePartials(const float* partials, int parts, WarpSums* total) {
    // Asked for so many at once, since each answer takes long.
    constexpr int kAtOnce = kSkinnyWarps;
    total->Clear();
    QS_NO_UNROLL
    for (int p = 0; p < parts; p += kAtOnce) {
      QS_UNROLL
      for (int m = 0; m < kTiles; ++m) {
        Float4 sums[kAtOnce][kColumns];
        QS_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          QS_UNROLL
          for (int n = 0; n < kColumns; ++n) {
            sums[i][n] = LoadFromL2(Quad(partials + (p + i) * kElements, m, n));
          }
        }
        QS_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          QS_UNROLL
          for (int n = 0; n < kColumns; ++n) {
            float* to = total->of[m][n];
            to[0] = to[0] + sums[i][n].x;
            to[1] = to[1] + sums[i][n].y;
            to[2] = to[2] + sums[i][n].z;
            to[3] = to[3] + sums[i][n].w;
          }
        }
      }
    }
  }

  QS_DEVICE static void Finish(const Args& args, const Where& at, const WarpSums& total) {
    const int lane = LaneIndex();
    const int slot = at.first_slot + WarpIndex() / kWideWarpsAlongRows * kTiles;
    const int first = WarpIndex() % kWideWarpsAlongRows * kColumns * 8 + lane % 4 * 2;
    const int64_t width = args.weight.out_features;
    QS_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      QS_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = first + n * 8 + i % 2, in_tile = lane / 4 + i / 2 * 8;
        if (row >= at.rows) continue;
        const int64_t x_row = at.first_row + row;
        if (args.activated != nullptr) {
          const int output = slot / 2 * kTileRows + in_tile;
          if (output >= width / 2) continue;
          args.activated[x_row * (width / 2) + output] =
              FloatToBf16(SiluTimes(total.of[0][n][i], total.of[1][n][i]));
          continue;
        }
        QS_UNROLL
        for (int m = 0; m < kTiles; ++m) {
          const int output = (slot + m) * kTileRows + in_tile;
          if (output >= width) continue;
          float sum = total.of[m][n][i];
          if (args.bias != nullptr) sum = sum + args.bias[output];
          args.out[x_row * width + output] = sum;
        }
      }
    }
  }
};

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GEMM_WIDE_CUH_
