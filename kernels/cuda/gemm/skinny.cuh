#ifndef QWENSERVE_KERNELS_CUDA_GEMM_SKINNY_CUH_
#define QWENSERVE_KERNELS_CUDA_GEMM_SKINNY_CUH_

// The product of few rows: all weights pass by once, as fast as memory gives them. Each warp has a
// part of the inputs and a ring of its own in shared memory, so that nobody waits for anybody until
// the parts are added.
#include "kernels/cuda/gemm/granule.cuh"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

template <FragmentFormat kFormat, int kVariant>
struct Skinny {
  using Args = LinearKernelArgs;
  static constexpr SkinnyShape kShape = kSkinnyShapes[kVariant];
  static constexpr StageLayout kStage = SkinnyStage(kFormat, kShape);
  static constexpr int kStages = SkinnyStages(kFormat, kShape);
  static constexpr int kColumns = kShape.columns;
  static constexpr int kTiles = kShape.tiles;
  static constexpr int kElements = SkinnyElements(kShape);
  static constexpr int kThreads = kSkinnyThreads;
  static constexpr int kMinBlocks = 227 * 1024 / (SkinnySharedBytes(kFormat, kShape) + 1024);
  static_assert(kMinBlocks >= 2);
  // In the end the warps' sums take the place of the rings.
  static_assert(kSkinnyWarps * kElements * 4 + 16 <= SkinnySharedBytes(kFormat, kShape));

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    const int part = static_cast<int>(BlockIndex().y) * kSkinnyWarps + WarpIndex();
    PartSum<kFormat, kTiles, kColumns> sum;
    AddPart(args, PartBegin(args.weight.granules, args.parts, part),
            PartBegin(args.weight.granules, args.parts, part + 1), &sum);
    SyncThreads();
    auto* sums = reinterpret_cast<float*>(SharedMemory());
    Store(sum.sum, sums + WarpIndex() * kElements);
    SyncThreads();
    if (GridSize().y == 1) {
      Finish<false>(args, sums, kSkinnyWarps);
      return;
    }
    float* all = args.partials + static_cast<int64_t>(BlockIndex().x) * args.parts * kElements;
    float* mine = all + BlockIndex().y * kSkinnyWarps * kElements;
    for (int i = ThreadIndex(); i < kSkinnyWarps * kElements; i += kThreads) mine[i] = sums[i];
    char* flag = SharedMemory() + kSkinnyWarps * kElements * 4;
    if (LastToArrive(args.arrivals + BlockIndex().x, static_cast<int>(GridSize().y), flag)) {
      Finish<true>(args, all, args.parts);
    }
  }

 private:
  QS_DEVICE static void AddPart(const Args& args, int begin, int end,
                                PartSum<kFormat, kTiles, kColumns>* sum) {
    const int lane = LaneIndex();
    char* const ring = SharedMemory() + WarpIndex() * kStages * kStage.bytes;
    char* const ring_end = ring + kStages * kStage.bytes;
    WeightCopier<kFormat, kTiles, kColumns * 8, kLanes> weights(
        args, static_cast<int>(BlockIndex().x) * kTiles, begin, lane);
    XCopier<kFormat, kLanes> x(args, 0, args.rows, begin, lane);
    // Weights are nobody's result: they are asked for before the kernel's predecessor is done. All
    // of them are in the first x's group.
    for (int s = 0; s < kStages - 1; ++s) {
      if (begin + s < end) weights.Copy(args, ring + s * kStage.bytes);
    }
    for (int s = 0; s < kStages; ++s) {
      ClearMissingRows<kFormat>(ring + s * kStage.bytes + kStage.x, args.rows, kColumns * 8, lane,
                                kLanes);
    }
    GridDependencyWait();
    for (int s = 0; s < kStages - 1; ++s) {
      if (begin + s < end) x.Copy(args, ring + s * kStage.bytes + kStage.x);
      CopyAsyncCommit();
    }
    sum->Begin(args, begin);
    char *stage = ring, *ahead = ring_end - kStage.bytes;
    for (int granule = begin; granule < end; ++granule) {
      CopyAsyncWait<kStages - 2>();
      SyncWarp();
      if (granule + kStages - 1 < end) {
        weights.Copy(args, ahead);
        x.Copy(args, ahead + kStage.x);
      }
      CopyAsyncCommit();
      sum->AddGranule(args, stage, stage + kStage.x, stage + kStage.scales, stage + kStage.zeros,
                      granule + 1 == end);
      ahead = stage;
      stage += kStage.bytes;
      if (stage == ring_end) stage = ring;
    }
  }

  // to: [tiles][rows of x][16]
  QS_DEVICE static void Store(const Sums<kTiles, kColumns>& sum, float* to) {
    const int row = LaneIndex() / 4, x_row = LaneIndex() % 4 * 2;
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      QS_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        QS_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int at = (m * kColumns * 8 + n * 8 + x_row + i % 2) * kTileRows + row + i / 2 * 8;
          to[at] = sum.of[m][n][i];
        }
      }
    }
  }

  template <bool kFromOthers>
  QS_DEVICE static float Total(const float* sums, int parts, int element) {
    float total = 0.0f;
    for (int p = 0; p < parts; ++p) {
      const float* part = sums + p * kElements + element;
      total = total + (kFromOthers ? LoadFromL2(part) : *part);
    }
    return total;
  }

  template <bool kFromOthers>
  QS_DEVICE static void Finish(const Args& args, const float* sums, int parts) {
    constexpr int kPerTile = kElements / kTiles;
    const int first_slot = static_cast<int>(BlockIndex().x) * kTiles;
    const bool pairs = args.activated != nullptr;
    for (int i = ThreadIndex(); i < kElements; i += kThreads) {
      const int m = i / kPerTile, x_row = i % kPerTile / kTileRows, row = i % kTileRows;
      if (x_row >= args.rows) continue;
      if (!pairs) {
        const int output = (first_slot + m) * kTileRows + row;
        if (output >= args.weight.out_features) continue;
        float total = Total<kFromOthers>(sums, parts, i);
        if (args.bias != nullptr) total = total + args.bias[output];
        args.out[static_cast<int64_t>(x_row) * args.weight.out_features + output] = total;
      } else if (m % 2 == 0) {
        const int output = (first_slot + m) / 2 * kTileRows + row;
        if (output >= args.weight.out_features / 2) continue;
        const float gate = Total<kFromOthers>(sums, parts, i);
        const float up = Total<kFromOthers>(sums, parts, i + kPerTile);
        args.activated[static_cast<int64_t>(x_row) * (args.weight.out_features / 2) + output] =
            FloatToBf16(SiluTimes(gate, up));
      }
    }
  }
};

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GEMM_SKINNY_CUH_
