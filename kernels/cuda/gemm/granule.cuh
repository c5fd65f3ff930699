#ifndef QWENSERVE_KERNELS_CUDA_GEMM_GRANULE_CUH_
#define QWENSERVE_KERNELS_CUDA_GEMM_GRANULE_CUH_

// A granule of a product: how it comes to shared memory, and how a warp multiplies it. The skinny
// and the wide kernels share it, and with it the order of every sum.
#include "kernels/cuda/gemm/fragments.cuh"
#include "kernels/cuda/gemm/gemm_kernels.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

// Which tile is in `slot` of all slots of the grid: with activated, gate and up alternate. Slots
// past the last tile repeat it; nothing is stored for them.
QS_DEVICE int TileOfSlot(const LinearKernelArgs& args, int slot) {
  const int tile = args.activated == nullptr ? slot : slot / 2 + (slot % 2) * args.up_tile;
  return tile < args.weight.tiles ? tile : args.weight.tiles - 1;
}

// Copies the weights of kTiles tiles, from `first_slot` on, for one granule, with their scales and
// zero points, to a stage that has kRows rows of x, too; `thread` is one of kThreads that do it.
template <FragmentFormat kFormat, int kTiles, int kRows, int kThreads>
QS_DEVICE void CopyWeights(const LinearKernelArgs& args, char* stage, int first_slot, int granule,
                           int thread) {
  constexpr int kChunks = GranuleBytes(kFormat) / kLaneBytes;
  const FragmentWeight& weight = args.weight;
  QS_UNROLL
  for (int i = 0; i < kTiles * kChunks / kThreads; ++i) {
    const int chunk = i * kThreads + thread;
    const int tile = TileOfSlot(args, first_slot + chunk / kChunks);
    const int64_t from =
        (static_cast<int64_t>(tile) * weight.granules + granule) * GranuleBytes(kFormat) +
        chunk % kChunks * kLaneBytes;
    CopyAsync16(stage + chunk * kLaneBytes, weight.data + from, true);
  }
  if constexpr (IsQuantizedFragment(kFormat)) {
    constexpr int kEntries = ScaleEntries(kFormat);
    constexpr StageLayout layout = StageOf(kFormat, kTiles, kRows);
    static_assert(kTiles * kEntries * 2 <= kThreads);
    if (thread < kTiles * kEntries * 2) {
      const int slot = thread / (kEntries * 2), entry = thread / 2 % kEntries, half = thread % 2;
      int group = GroupOfEntry(granule * kEntries + entry, weight.group_magic);
      if (group >= weight.groups) group = weight.groups - 1;
      const int64_t from =
          (static_cast<int64_t>(TileOfSlot(args, first_slot + slot)) * weight.groups + group) *
          kTileRows;
      CopyAsync16(stage + layout.scales + thread * kLaneBytes, weight.scales + from + half * 8,
                  true);
      if (weight.zeros != nullptr && half == 0) {
        CopyAsync16(stage + layout.zeros + (slot * kEntries + entry) * kLaneBytes,
                    weight.zeros + from, true);
      }
    }
  }
}

// Where 16 bytes of a row of x lie in a stage: permuted so that LoadMatrix4 finds eight rows in
// eight different groups of banks.
template <FragmentFormat kFormat>
QS_DEVICE int XOffset(int row, int chunk) {
  return (row * (GranuleInputs(kFormat) / 8) + (chunk ^ (row & 7))) * kLaneBytes;
}

// Copies the granule of rows first_row .. first_row + rows - 1 of x; kAsync: in the background.
template <FragmentFormat kFormat, bool kAsync>
QS_DEVICE void CopyX(const LinearKernelArgs& args, char* x_stage, int first_row, int rows,
                     int granule, int thread, int threads) {
  constexpr int kChunks = GranuleInputs(kFormat) / 8;
  QS_NO_UNROLL
  for (int i = thread; i < rows * kChunks; i += threads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int input = granule * GranuleInputs(kFormat) + chunk * 8;
    const bool valid = input < args.x_inputs;
    const uint16_t* from = args.x + static_cast<int64_t>(first_row + row) * args.x_inputs + input;
    char* to = x_stage + XOffset<kFormat>(row, chunk);
    if constexpr (kAsync) {
      CopyAsync16(to, valid ? from : args.x, valid);
    } else {
      *reinterpret_cast<Word4*>(to) = valid ? *reinterpret_cast<const Word4*>(from) : Word4{};
    }
  }
}

// Rows of x that are not there are zeros; in every stage, once and for all.
template <FragmentFormat kFormat>
QS_DEVICE void ClearMissingRows(char* x_stage, int rows, int all_rows, int thread, int threads) {
  constexpr int kChunks = GranuleInputs(kFormat) / 8;
  for (int i = rows * kChunks + thread; i < all_rows * kChunks; i += threads) {
    *reinterpret_cast<Word4*>(x_stage + i * kLaneBytes) = Word4{};
  }
}

// The sums of a warp: kTiles tiles x kColumns * 8 rows of x, as MmaBf16 has them.
template <int kTiles, int kColumns>
struct Sums {
  float of[kTiles][kColumns][4];

  QS_DEVICE void Clear() {
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      QS_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        QS_UNROLL
        for (int i = 0; i < 4; ++i) of[m][n][i] = 0.0f;
      }
    }
  }
  // of += other
  QS_DEVICE void Add(const Sums& other) {
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      QS_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        QS_UNROLL
        for (int i = 0; i < 4; ++i) of[m][n][i] = of[m][n][i] + other.of[m][n][i];
      }
    }
  }
};

// The sum of a part, while it is being added up.
template <FragmentFormat kFormat, int kTiles, int kColumns>
struct PartSum {
  static constexpr bool kQuantized = IsQuantizedFragment(kFormat);
  Sums<kTiles, kColumns> sum;
  // Of the group at hand, not yet scaled; only of quantised weights.
  Sums<kTiles, kColumns> group;
  int group_left = 0;  // inputs

  QS_DEVICE void Begin(const LinearKernelArgs& args, int granule) {
    sum.Clear();
    if constexpr (kQuantized) {
      group.Clear();
      const int entry = granule * ScaleEntries(kFormat);
      const int into = entry - GroupOfEntry(entry, args.weight.group_magic) *
                                   (args.weight.group_size / kEntryInputs);
      group_left = args.weight.group_size - into * kEntryInputs;
    }
  }

  // Adds a granule, 32 inputs after 32. weights, scales, zeros: in shared memory, of the warp's
  // first tile; x: of its first row; `last`: of the part.
  QS_DEVICE void AddGranule(const LinearKernelArgs& args, const char* weights, const char* x,
                            const char* scales, const char* zeros, bool last) {
    constexpr int kHalves = GranuleInputs(kFormat) / kEntryInputs;
    // Many sums leave no registers to look ahead with.
    constexpr bool kUnrolled = !kQuantized || kTiles * kColumns < 8;
    constexpr int kAtOnce = kUnrolled ? kHalves : CeilDiv(UnitInputs(kFormat), kEntryInputs);
    QS_NO_UNROLL
    for (int first = 0; first < kHalves; first += kAtOnce) {
      Word4 words[kTiles];
      QS_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int half = first + i;
        AddHalf(args, weights + half * kEntryInputs / UnitInputs(kFormat) * kUnitBytes, x, zeros,
                half, i, words);
        if constexpr (kQuantized) {
          group_left -= kEntryInputs;
          if (group_left == 0 || (last && half == kHalves - 1)) {
            Flush(scales + half * kTileRows * 2);
            group_left = args.weight.group_size;
          }
        }
      }
    }
  }

 private:
  // Adds 32 inputs, `half` of a granule, which are number i of those that `words` are of: a unit is
  // loaded when its first inputs are met. unit: the first tile's.
  QS_DEVICE void AddHalf(const LinearKernelArgs& args, const char* unit, const char* x,
                         const char* zeros, int half, int i, Word4 words[kTiles]) {
    constexpr int kUnit = UnitInputs(kFormat);
    const int lane = LaneIndex();
    uint32_t b[kColumns][4];
    QS_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      LoadMatrix4(b[n], x + XOffset<kFormat>(n * 8 + lane % 8, half * 4 + lane / 8));
    }
    ZeroTerms zero[kTiles];
    if constexpr (kQuantized) LoadZeros(args, zeros + half * kTileRows, zero);
    QS_UNROLL
    for (int s = 0; s < 2; ++s) {
      const int input = i * kEntryInputs + s * 16;
      QS_UNROLL
      for (int m = 0; m < kTiles; ++m) {
        if (input % kUnit == 0) {
          words[m] = *reinterpret_cast<const Word4*>(
              unit + m * GranuleBytes(kFormat) + s * 16 / kUnit * kUnitBytes + lane * kLaneBytes);
        }
        uint32_t a[FragmentTerms(kFormat)][4];
        Fragment<kFormat>(words[m], input % kUnit / 16, zero[m], a);
        QS_UNROLL
        for (int term = 0; term < FragmentTerms(kFormat); ++term) {
          QS_UNROLL
          for (int n = 0; n < kColumns; ++n) {
            MmaBf16(kQuantized ? group.of[m][n] : sum.of[m][n], a[term], b[n] + 2 * s);
          }
        }
      }
    }
  }

  QS_DEVICE static void LoadZeros(const LinearKernelArgs& args, const char* zeros,
                                  ZeroTerms zero[kTiles]) {
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      zero[m] = DefaultZeros(kFormat);
      if (args.weight.zeros != nullptr) {
        const auto* of = reinterpret_cast<const uint8_t*>(zeros + m * ZeroBytes(kFormat));
        zero[m].of[0] = ZeroTerm(kFormat, of[LaneIndex() / 4]);
        zero[m].of[1] = ZeroTerm(kFormat, of[LaneIndex() / 4 + 8]);
      }
    }
  }

  // sum += scale * group. scales: of the entry, for the warp's first tile.
  QS_DEVICE void Flush(const char* scales) {
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      const auto* tile = reinterpret_cast<const uint16_t*>(scales + m * ScaleBytes(kFormat));
      const float scale[2] = {HalfToFloat(tile[LaneIndex() / 4]),
                              HalfToFloat(tile[LaneIndex() / 4 + 8])};
      QS_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        QS_UNROLL
        for (int i = 0; i < 4; ++i) {
          sum.of[m][n][i] = Fma(scale[i / 2], group.of[m][n][i], sum.of[m][n][i]);
        }
      }
    }
    group.Clear();
  }
};

// silu(gate) * up.
QS_DEVICE float SiluTimes(float gate, float up) {
  constexpr float kLog2E = 1.44269504088896341f;
  return gate / (1.0f + Exp2Fast(-gate * kLog2E)) * up;
}

// Counts this block among the `blocks` that share an output; true, for all threads, in the last of
// them, which sees what the others wrote. `shared`: four bytes.
QS_DEVICE bool LastToArrive(int32_t* arrivals, int blocks, char* shared) {
  ThreadFence();
  SyncThreads();
  auto* last = reinterpret_cast<int32_t*>(shared);
  if (ThreadIndex() == 0) {
    *last = AtomicAdd(arrivals, 1) == blocks - 1 ? 1 : 0;
    if (*last != 0) *arrivals = 0;  // for the next product
    ThreadFence();
  }
  SyncThreads();
  return *last != 0;
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GEMM_GRANULE_CUH_
