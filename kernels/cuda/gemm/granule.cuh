#ifndef QWENSERVE_KERNELS_CUDA_GEMM_GRANULE_CUH_
#define QWENSERVE_KERNELS_CUDA_GEMM_GRANULE_CUH_

// A granule of a product: how it comes to shared memory, and how a warp multiplies it. The skinny
// and the wide kernels share it, and with it the order of every sum.
#include "kernels/cuda/gemm/fragments.cuh"
#include "kernels/cuda/gemm/gemm_kernels.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

// Copies weights to shared memory, granule after granule: kTiles tiles with their scales and zero
// points, to stages that have kRows rows of x, too. Each of kThreads threads has its share.
//
// A grid has its tiles in slots; with activated, gate and up alternate. Slots past the last tile
// become zeros.
template <FragmentFormat kFormat, int kTiles, int kRows, int kThreads>
class WeightCopier {
 public:
  QS_DEVICE WeightCopier(const LinearKernelArgs& args, int first_slot, int granule, int thread)
      : thread_(thread), slots_(args.weight.tiles - first_slot - thread / kChunks) {
    const FragmentWeight& weight = args.weight;
    const int64_t at =
        static_cast<int64_t>(granule) * GranuleBytes(kFormat) + thread % kChunks * kLaneBytes;
    QS_UNROLL
    for (int i = 0; i < kSlots; ++i) {
      const int tile = TileOfSlot(args, first_slot + thread / kChunks + i * kSlotsAtOnce);
      from_[i] =
          weight.data + at + static_cast<int64_t>(tile) * weight.granules * GranuleBytes(kFormat);
    }
    if constexpr (kQuantized) {
      const int slot = thread / (kEntries * 2);
      entry_ = granule * kEntries + thread / 2 % kEntries;
      has_scale_ = slot < kTiles && first_slot + slot < weight.tiles;
      has_zero_ = has_scale_ && weight.zeros != nullptr && thread % 2 == 0;
      scale_row_ = has_scale_ ? TileOfSlot(args, first_slot + slot) * weight.groups * kTileRows : 0;
    }
  }

  // The next granule.
  QS_DEVICE void Copy(const LinearKernelArgs& args, char* stage) {
    constexpr int kPerSlot = kThreads < kChunks ? kChunks / kThreads : 1;
    QS_UNROLL
    for (int i = 0; i < kSlots; ++i) {
      const bool valid = i * kSlotsAtOnce < slots_;
      QS_UNROLL
      for (int j = 0; j < kPerSlot; ++j) {
        CopyAsync16(stage + (thread_ + (i * kPerSlot + j) * kThreads) * kLaneBytes,
                    from_[i] + j * kThreads * kLaneBytes, valid);
      }
      from_[i] += GranuleBytes(kFormat);
    }
    if constexpr (kQuantized) CopyScales(args, stage);
  }

 private:
  static constexpr bool kQuantized = IsQuantizedFragment(kFormat);
  static constexpr int kChunks = GranuleBytes(kFormat) / kLaneBytes;
  static constexpr int kEntries = ScaleEntries(kFormat);
  // Slots that the threads have at once, and how often.
  static constexpr int kSlotsAtOnce = kThreads > kChunks ? kThreads / kChunks : 1;
  static constexpr int kSlots = kTiles / kSlotsAtOnce;
  static_assert(kTiles % kSlotsAtOnce == 0 && kTiles * kEntries * 2 <= kThreads);

  QS_DEVICE static int TileOfSlot(const LinearKernelArgs& args, int slot) {
    return args.activated == nullptr ? slot : slot / 2 + slot % 2 * args.up_tile;
  }

  QS_DEVICE void CopyScales(const LinearKernelArgs& args, char* stage) {
    constexpr StageLayout kLayout = StageOf(kFormat, kTiles, kRows);
    const int found = GroupOfEntry(entry_, args.weight.group_magic);
    const int last = args.weight.groups - 1;
    const int at = scale_row_ + (found < last ? found : last) * kTileRows;
    if (has_scale_) {
      CopyAsync16(stage + kLayout.scales + thread_ * kLaneBytes,
                  args.weight.scales + at + thread_ % 2 * 8, true);
    }
    if (has_zero_) {
      CopyAsync16(stage + kLayout.zeros + thread_ / 2 * kLaneBytes, args.weight.zeros + at, true);
    }
    entry_ += kEntries;
  }

  const int thread_, slots_;
  const uint8_t* from_[kSlots];
  int entry_ = 0;
  bool has_scale_ = false, has_zero_ = false;
  int scale_row_ = 0;
};

// Where 16 bytes of a row of x lie in a stage: permuted so that LoadMatrix4 finds eight rows in
// eight different groups of banks.
template <FragmentFormat kFormat>
QS_DEVICE int XOffset(int row, int chunk) {
  return (row * (GranuleInputs(kFormat) / 8) + (chunk ^ (row & 7))) * kLaneBytes;
}

// Copies rows of x to shared memory, granule after granule.
template <FragmentFormat kFormat, int kThreads>
class XCopier {
 public:
  QS_DEVICE XCopier(const LinearKernelArgs& args, int first_row, int rows, int granule, int thread)
      : row_(thread / kChunks), chunk_(thread % kChunks), rows_(rows) {
    first_ = XOffset<kFormat>(row_, chunk_);
    input_ = granule * GranuleInputs(kFormat) + chunk_ * 8;
    from_ = args.x + static_cast<int64_t>(first_row + row_) * args.x_inputs + input_;
  }

  // The next granule, in the background: a thread has up to 16 rows, and to wait for each of them
  // would take as long as a block's share of weights.
  QS_DEVICE void Copy(const LinearKernelArgs& args, char* x_stage) {
    const bool valid = input_ < args.x_inputs;
    if (row_ < rows_) CopyAsync16(x_stage + first_, from_, valid);
    const uint16_t* from = from_;
    QS_NO_UNROLL
    for (int row = row_ + kRowsAtOnce; row < rows_; row += kRowsAtOnce) {
      from += static_cast<int64_t>(kRowsAtOnce) * args.x_inputs;
      CopyAsync16(x_stage + XOffset<kFormat>(row, chunk_), from, valid);
    }
    input_ += GranuleInputs(kFormat);
    from_ += GranuleInputs(kFormat);
  }

 private:
  static constexpr int kChunks = GranuleInputs(kFormat) / 8;
  static constexpr int kRowsAtOnce = kThreads / kChunks;

  const int row_, chunk_, rows_;
  int first_, input_;
  const uint16_t* from_;
};

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
    if constexpr (!kQuantized) {
      AddHalves<kHalves, false>(args, weights, x, scales, zeros, last, 0);
    } else if (kTiles * kColumns < 8 && !args.weight.groups_cut_granules) {
      AddHalves<kHalves, false>(args, weights, x, scales, zeros, last, 0);
    } else {
      // Groups of less than a granule are few models', and many sums leave no registers to look
      // ahead with.
      constexpr int kOfUnit = CeilDiv(UnitInputs(kFormat), kEntryInputs);
      QS_NO_UNROLL
      for (int half = 0; half < kHalves; half += kOfUnit) {
        AddHalves<kOfUnit, true>(args, weights, x, scales, zeros, last, half);
      }
    }
  }

 private:
  static constexpr int kHalves = GranuleInputs(kFormat) / kEntryInputs;

  // Adds `kCount` times 32 inputs, from number `first` of the granule on; kCut: groups may end
  // between them.
  template <int kCount, bool kCut>
  QS_DEVICE void AddHalves(const LinearKernelArgs& args, const char* weights, const char* x,
                           const char* scales, const char* zeros, bool last, int first) {
    Word4 words[kTiles];
    ZeroTerms zero[kTiles];
    QS_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int half = first + i;
      if constexpr (kQuantized) {
        if (kCut || i == 0) LoadZeros(args, zeros + half * kTileRows, zero);
      }
      AddHalf(weights + half * kEntryInputs / UnitInputs(kFormat) * kUnitBytes, x, half, i, zero,
              words);
      if constexpr (kQuantized) {
        if (!kCut && i < kCount - 1) continue;
        group_left -= kCut ? kEntryInputs : GranuleInputs(kFormat);
        if (group_left == 0 || (last && half == kHalves - 1)) {
          Flush(scales + half * kTileRows * 2);
          group_left = args.weight.group_size;
        }
      }
    }
  }

  // Adds 32 inputs, `half` of a granule, which are number i of those that `words` are of: a unit is
  // loaded when its first inputs are met. unit: the first tile's.
  QS_DEVICE void AddHalf(const char* unit, const char* x, int half, int i,
                         const ZeroTerms zero[kTiles], Word4 words[kTiles]) {
    constexpr int kUnit = UnitInputs(kFormat);
    const int lane = LaneIndex();
    // Two steps of one column of 8 rows of x are loaded at once, or one step of two columns.
    constexpr bool kPairs = kColumns % 2 == 0;
    uint32_t b[kPairs ? kColumns / 2 : 1][4];
    QS_UNROLL
    for (int s = 0; s < 2; ++s) {
      if constexpr (kPairs) {
        QS_UNROLL
        for (int n = 0; n < kColumns; n += 2) {
          const int row = (n + lane / 16) * 8 + lane % 8;
          LoadMatrix4(b[n / 2], x + XOffset<kFormat>(row, half * 4 + s * 2 + lane / 8 % 2));
        }
      } else if (s == 0) {
        static_assert(kPairs || kColumns == 1);
        LoadMatrix4(b[0], x + XOffset<kFormat>(lane % 8, half * 4 + lane / 8));
      }
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
            const uint32_t* column = kPairs ? b[n / 2] + 2 * (n % 2) : b[0] + 2 * s;
            MmaBf16(kQuantized ? group.of[m][n] : sum.of[m][n], a[term], column);
          }
        }
      }
    }
  }

  QS_DEVICE static void LoadZeros(const LinearKernelArgs& args, const char* zeros,
                                  ZeroTerms zero[kTiles]) {
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) zero[m] = DefaultZeros(kFormat);
    if (args.weight.zeros == nullptr) return;
    QS_UNROLL
    for (int m = 0; m < kTiles; ++m) {
      const auto* of = reinterpret_cast<const uint8_t*>(zeros + m * ZeroBytes(kFormat));
      zero[m].of[0] = ZeroTerm(kFormat, of[LaneIndex() / 4]);
      zero[m].of[1] = ZeroTerm(kFormat, of[LaneIndex() / 4 + 8]);
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
