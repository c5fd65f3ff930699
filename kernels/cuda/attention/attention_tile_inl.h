#ifndef QWENSERVE_KERNELS_CUDA_ATTENTION_ATTENTION_TILE_INL_H_
#define QWENSERVE_KERNELS_CUDA_ATTENTION_ATTENTION_TILE_INL_H_

// What decode and prefill do alike with a segment of kGpuSegment positions, so that a row has the
// same bits in both: 16 query vectors are the rows of an m16n8k16 product (mma, see MmaBf16 for its
// fragments: lane = 4 g + t), keys its columns; then probabilities the rows, dims the columns.
//
// int8 keeps its bytes in shared memory and makes fragments of them in registers. For that the
// order of dims inside a product is another one: k columns 2t, 2t+1, 2t+8, 2t+9 are dims 4t, 4t+2,
// 4t+1, 4t+3 of 16, and the columns 2t, 2t+1 of value tiles 2j and 2j+1 are dims 4t, 4t+2 and
// 4t+1, 4t+3 of 16.
#include "kernels/cuda/attention/attention_kernels.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

// --- Loading ----------------------------------------------------------------------------------

// Where a sequence's keys and values of one head are.
struct KvSource {
  const AttentionArgs& args;
  const char* head = nullptr;      // in block 0
  const int32_t* table = nullptr;  // of the sequence
  int32_t last = 0;                // position of the last key that any row of the block sees
};

QS_DEVICE KvSource MakeKvSource(const AttentionArgs& args, int sequence, int kv_head, int last) {
  return {args, args.kv + static_cast<int64_t>(kv_head) * args.layout.head_bytes(),
          args.block_tables + static_cast<int64_t>(sequence) * args.max_blocks, last};
}

// Lane i < kSegmentBlocks gets block i of the segment. Entries behind the last position are not
// read.
QS_DEVICE int32_t LoadBlockIds(const KvSource& kv, int segment) {
  const int entry = segment * kSegmentBlocks + LaneIndex();
  const bool exists = LaneIndex() < kSegmentBlocks && entry * kKvBlockSize <= kv.last;
  return exists ? LoadFromL2(kv.table + entry) : 0;
}

// Starts copying a segment's keys (or values), but for row `left_out`: zeros where there is no such
// position or dim, as that memory may hold anything.
template <int kDim, bool kInt8, int kThreads>
QS_DEVICE void CopyRows(const KvSource& kv, bool values, int segment, int32_t ids, int left_out,
                        char* tile) {
  const GpuKvLayout& layout = kv.args.layout;
  const int64_t block_bytes = layout.block_bytes(kv.args.heads.num_kv_heads);
  using Tile = KvTile<kDim, kInt8>;
  constexpr int kRows = kThreads / Tile::kPieces;  // at once
  const int piece = ThreadIndex() % Tile::kPieces;
  const int existing = kv.last + 1 - segment * kGpuSegment;
  constexpr int kPasses = kGpuSegment / kRows;
  // A few at once: their addresses are long in coming, and registers are few.
  constexpr int kAtOnce = kThreads == kDecodeThreads ? 4 : 2;
  static_assert(kPasses % kAtOnce == 0);
  QS_NO_UNROLL
  for (int first = 0; first < kPasses; first += kAtOnce) {
    QS_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int row = (first + i) * kRows + ThreadIndex() / Tile::kPieces;
      const int64_t block = Shuffle(ids, row / kKvBlockSize);
      const int slot = row % kKvBlockSize;
      const char* from = kv.head + block * block_bytes +
                         (values ? layout.value_offset(slot) : layout.key_offset(slot)) +
                         16 * piece;
      const bool exists = row < existing && 16 * piece < layout.row_bytes();
      if (row != left_out) CopyAsync16(tile + Tile::At(row, piece), from, exists);
    }
  }
}

// Starts copying the scales of a segment's keys and values.
QS_DEVICE void CopyScales(const KvSource& kv, int segment, int32_t ids, float* scales) {
  const GpuKvLayout& layout = kv.args.layout;
  const int64_t block_bytes = layout.block_bytes(kv.args.heads.num_kv_heads);
  constexpr int kQuads = kGpuSegment / 4;  // threads of one warp
  static_assert(kQuads == 32);
  if (WarpIndex() != 0) return;
  const int row = 4 * LaneIndex();
  const int64_t block = Shuffle(ids, row / kKvBlockSize);
  const char* from = kv.head + block * block_bytes + layout.key_scale_offset(row % kKvBlockSize);
  const bool exists = row <= kv.last - segment * kGpuSegment;
  CopyAsync16(scales + row, from, exists);
  CopyAsync16(scales + kGpuSegment + row,
              from + layout.value_scale_offset(0) - layout.key_scale_offset(0), exists);
}

// A block's way through segments: the copies of the next keys run while values are worked on, those
// of the next values while keys are. Keys come with the scales of both.
template <int kDim, bool kInt8, int kThreads>
struct SegmentStream {
  using Memory = SegmentMemory<kDim, kInt8>;
  KvSource kv;
  int32_t ids = 0;        // of the segment that was asked for last
  int32_t ids_ahead = 0;  // of the one behind it

  QS_DEVICE float* ScalesOf(int turn) const {
    return reinterpret_cast<float*>(SharedMemory() + Memory::kScales) +
           turn % 2 * Memory::kScaleFloats;
  }
  QS_DEVICE static char* Keys() { return SharedMemory() + Memory::kKeys; }
  QS_DEVICE static char* Values() { return SharedMemory() + Memory::kValues; }
  QS_DEVICE void Start(int segment, int following) {
    ids_ahead = LoadBlockIds(kv, segment);
    StartKeys(segment, following, 0);
    StartValues(segment);
  }
  // Start for the segment of kv.last in two parts: all but kv.last, and that position once it is
  // there.
  QS_DEVICE void StartWithoutLast() {
    const int segment = kv.last / kGpuSegment, last = kv.last % kGpuSegment;
    ids = LoadBlockIds(kv, segment);
    CopyRows<kDim, kInt8, kThreads>(kv, false, segment, ids, last, Keys());
    CopyRows<kDim, kInt8, kThreads>(kv, true, segment, ids, last, Values());
  }
  QS_DEVICE void AddLast() {
    using Tile = typename Memory::Tile;
    const GpuKvLayout& layout = kv.args.layout;
    const int segment = kv.last / kGpuSegment, last = kv.last % kGpuSegment;
    if (WarpIndex() == 0) {
      static_assert(Tile::kPieces <= 16);
      const bool value = LaneIndex() >= 16;
      const int piece = LaneIndex() % 16, slot = last % kKvBlockSize;
      const char* head = kv.head + Shuffle(ids, last / kKvBlockSize) *
                                       layout.block_bytes(kv.args.heads.num_kv_heads);
      const char* row = head + (value ? layout.value_offset(slot) : layout.key_offset(slot));
      if (piece < Tile::kPieces) {
        CopyAsync16((value ? Values() : Keys()) + Tile::At(last, piece), row + 16 * piece,
                    16 * piece < layout.row_bytes());
      }
    }
    if constexpr (kInt8) CopyScales(kv, segment, ids, ScalesOf(0));
    CopyAsyncCommit();  // keys and values
    CopyAsyncCommit();
  }
  // segment, following < 0: none. `turn` counts the segments of the block.
  QS_DEVICE void StartKeys(int segment, int following, int turn) {
    if (segment >= 0) {
      ids = ids_ahead;
      if (following >= 0) ids_ahead = LoadBlockIds(kv, following);
      CopyRows<kDim, kInt8, kThreads>(kv, false, segment, ids, -1, Keys());
      if constexpr (kInt8) CopyScales(kv, segment, ids, ScalesOf(turn));
    }
    CopyAsyncCommit();
  }
  // Of the same segment.
  QS_DEVICE void StartValues(int segment) {
    if (segment >= 0) {
      CopyRows<kDim, kInt8, kThreads>(kv, true, segment, ids, -1, Values());
    }
    CopyAsyncCommit();
  }
  // Of two groups under way the older one is there, for all threads.
  QS_DEVICE static void WaitForOlder() {
    CopyAsyncWait<1>();
    SyncThreads();
  }
};

// --- Fragments --------------------------------------------------------------------------------

// Codes in bytes 0 and 2 as a pair of bf16, exactly: 128 plus the lower seven bits, less 128, or
// less 256 where the sign is set.
QS_DEVICE uint32_t CodesToBf16(uint32_t codes) {
  const uint32_t sum = AndOr<0x007f007fu, 0x43004300u>(codes);
  const uint32_t base = AndOr<0x00800080u, 0x43004300u>(codes);
  return FmaBf16x2(base, 0xbf80bf80u, sum);
}

// Queries of rows g and g + 8 (null: zeros), scaled and rounded to bf16.
template <int kDim, bool kInt8>
QS_DEVICE void LoadQueries(const float* low, const float* high, int head_dim, float scale,
                           uint32_t q[kDim / 16][4]) {
  const int t = LaneIndex() % 4;
  QS_UNROLL for (int k = 0; k < kDim / 16; ++k) {
    QS_UNROLL for (int r = 0; r < 2; ++r) {
      const float* from = r == 0 ? low : high;
      Float2 first, second;
      if (from != nullptr && 16 * k < head_dim) {
        if constexpr (kInt8) {
          const Float4 x = *reinterpret_cast<const Float4*>(from + 16 * k + 4 * t);
          first = {x.x, x.z};
          second = {x.y, x.w};
        } else {
          first = *reinterpret_cast<const Float2*>(from + 16 * k + 2 * t);
          second = *reinterpret_cast<const Float2*>(from + 16 * k + 8 + 2 * t);
        }
      }
      q[k][r] = PackBf16(first.x * scale, first.y * scale);
      q[k][r + 2] = PackBf16(second.x * scale, second.y * scale);
    }
  }
}

// What the lane loads: Tile::At(row + more_rows, piece + more_pieces), the latter two known to the
// compiler, more_rows a multiple of 8 and no bit of more_pieces in any lane's piece. What is added
// then becomes part of the load instruction.
template <typename Tile>
QS_DEVICE const char* LaneRow(const char* tile, int row, int piece, int more_rows,
                              int more_pieces) {
  constexpr int kTurn = Tile::kTurn;
  const int offset = Opaque(Tile::At(row, piece) ^ more_pieces % kTurn * 16);
  return tile + (offset + more_rows * Tile::kRowBytes + more_pieces / kTurn * kTurn * 16);
}

// b[k]: 8 keys from key + more_keys on, dims 64 part + 16 k and on.
template <int kDim, bool kInt8>
QS_DEVICE void LoadKeys(const char* keys, int key, int more_keys, int part, uint32_t b[4][2]) {
  using Tile = KvTile<kDim, kInt8>;
  const int row = key + LaneIndex() % 8, piece = LaneIndex() / 8;
  uint32_t r[4];
  if constexpr (kInt8) {
    LoadMatrix4(r, LaneRow<Tile>(keys, row, piece, more_keys, 4 * part));
    QS_UNROLL for (int k = 0; k < 4; ++k) {
      b[k][0] = CodesToBf16(r[k]);
      b[k][1] = CodesToBf16(r[k] >> 8);
    }
  } else {
    QS_UNROLL for (int half = 0; half < 2; ++half) {
      LoadMatrix4(r, LaneRow<Tile>(keys, row, piece, more_keys, 8 * part + 4 * half));
      b[2 * half][0] = r[0];
      b[2 * half][1] = r[1];
      b[2 * half + 1][0] = r[2];
      b[2 * half + 1][1] = r[3];
    }
  }
}

// b[k][n]: keys 32 part + 16 k and on, tile n of the 16 dims from 16 (unit + more_units) on. No bit
// of more_units may be in `unit`.
template <int kDim, bool kInt8>
QS_DEVICE void LoadValues(const char* values, int part, int unit, int more_units,
                          uint32_t b[2][2][2]) {
  using Tile = KvTile<kDim, kInt8>;
  const int lane = LaneIndex();
  uint32_t r[4];
  if constexpr (kInt8) {
    LoadMatrix4Transposed(r, LaneRow<Tile>(values, lane, unit, 32 * part, more_units));
    QS_UNROLL for (int k = 0; k < 2; ++k) {
      QS_UNROLL for (int h = 0; h < 2; ++h) {
        b[k][0][h] = CodesToBf16(r[2 * k + h]);
        b[k][1][h] = CodesToBf16(r[2 * k + h] >> 8);
      }
    }
  } else {
    QS_UNROLL for (int k = 0; k < 2; ++k) {
      LoadMatrix4Transposed(r, LaneRow<Tile>(values, lane % 16, 2 * unit + lane / 16,
                                             32 * part + 16 * k, 2 * more_units));
      QS_UNROLL for (int n = 0; n < 2; ++n) {
        b[k][n][0] = r[2 * n];
        b[k][n][1] = r[2 * n + 1];
      }
    }
  }
}

// The dim of a lane's column c (0, 1) of value tile n of 16 dims.
template <bool kInt8>
QS_DEVICE int ColumnOf(int n, int c) {
  const int t = LaneIndex() % 4;
  return kInt8 ? 4 * t + 2 * c + n : 8 * n + 2 * t + c;
}

// --- A segment --------------------------------------------------------------------------------

// s[n]: products of the queries with 8 keys from key + 8 n on, each one chain over the dims.
// queries(k, a) gives the fragment of dims 16 k and on.
template <int kDim, bool kInt8, int kTiles, typename Fragments>
QS_DEVICE void Scores(const char* keys, int key, const Fragments& queries, float s[kTiles][4]) {
  QS_UNROLL for (int n = 0; n < kTiles; ++n) { QS_UNROLL for (int i = 0; i < 4; ++i) s[n][i] = 0; }
  QS_UNROLL for (int part = 0; part < kDim / 64; ++part) {
    uint32_t a[4][4];
    QS_UNROLL for (int k = 0; k < 4; ++k) queries(4 * part + k, a[k]);
    QS_UNROLL for (int n = 0; n < kTiles; ++n) {
      uint32_t b[4][2];
      LoadKeys<kDim, kInt8>(keys, key, 8 * n, part, b);
      QS_UNROLL for (int k = 0; k < 4; ++k) MmaBf16(s[n], a[k], b[k]);
    }
  }
}

// What a lane knows of its two rows.
struct RowPair {
  float low, high;
};

// Scales the scores, makes those of positions that a row does not see -infinity, and returns the
// largest of each row among this lane's. visible: how many keys of the segment each row sees.
template <bool kInt8, int kTiles>
QS_DEVICE RowPair MaskScores(const float* scales, int key, int visible_low, int visible_high,
                             float s[kTiles][4]) {
  const float infinity = BitsToFloat(0x7f800000u);
  RowPair largest = {-infinity, -infinity};
  const int first = key + LaneIndex() % 4 * 2;
  // Compared with constants: the positions themselves would take registers.
  visible_low -= first;
  visible_high -= first;
  QS_UNROLL for (int n = 0; n < kTiles; ++n) {
    QS_UNROLL for (int c = 0; c < 2; ++c) {
      if constexpr (kInt8) {
        const float scale = scales[first + 8 * n + c];
        s[n][c] *= scale;
        s[n][c + 2] *= scale;
      }
      if (8 * n + c >= visible_low) s[n][c] = -infinity;
      if (8 * n + c >= visible_high) s[n][c + 2] = -infinity;
      largest.low = Max(largest.low, s[n][c]);
      largest.high = Max(largest.high, s[n][c + 2]);
    }
  }
  return largest;
}

// Over the four lanes of a row.
QS_DEVICE RowPair MaxOfLanes(RowPair x) {
  QS_UNROLL for (int mask = 1; mask < 4; mask *= 2) {
    x.low = Max(x.low, ShuffleXor(x.low, mask));
    x.high = Max(x.high, ShuffleXor(x.high, mask));
  }
  return x;
}
QS_DEVICE RowPair SumOfLanes(RowPair x) {
  QS_UNROLL for (int mask = 1; mask < 4; mask *= 2) {
    x.low += ShuffleXor(x.low, mask);
    x.high += ShuffleXor(x.high, mask);
  }
  return x;
}

// What to subtract from scores: not -infinity, which would make NaN of a row that sees nothing.
QS_DEVICE float Subtrahend(float largest) {
  return FloatBits(largest) == 0xff800000u ? 0.0f : largest;
}

// Turns the scores of 32 keys into probabilities, times the values' scales, as bf16: p[n][0] of the
// lower row, [1] of the upper one. Returns this lane's part of their totals.
template <bool kInt8>
QS_DEVICE RowPair Probabilities(const float* scales, int key, RowPair largest, float s[4][4],
                                uint32_t p[4][2]) {
  const float low = Subtrahend(largest.low), high = Subtrahend(largest.high);
  const int first = key + LaneIndex() % 4 * 2;
  RowPair total = {0, 0};
  QS_UNROLL for (int n = 0; n < 4; ++n) {
    QS_UNROLL for (int i = 0; i < 4; ++i) {
      const float x = Exp2Fast(s[n][i] - (i < 2 ? low : high));
      (i < 2 ? total.low : total.high) += x;
      if constexpr (kInt8) {
        // A scale behind the last position may be anything.
        s[n][i] = x == 0 ? 0.0f : x * scales[kGpuSegment + first + 8 * n + i % 2];
      } else {
        s[n][i] = x;
      }
    }
    p[n][0] = PackBf16(s[n][0], s[n][1]);
    p[n][1] = PackBf16(s[n][2], s[n][3]);
  }
  return total;
}

// sum[n] for 16 kUnits dims from 16 (unit + more_units) on, as in LoadValues: each element one
// chain over the keys of the segment. probabilities(k, a) gives the fragment of keys 16 k and on.
template <int kDim, bool kInt8, int kUnits, typename Fragments>
QS_DEVICE void WeightValues(const char* values, int unit, int more_units,
                            const Fragments& probabilities, float sum[2 * kUnits][4]) {
  QS_UNROLL for (int n = 0; n < 2 * kUnits; ++n) {
    QS_UNROLL for (int i = 0; i < 4; ++i) sum[n][i] = 0;
  }
  QS_UNROLL for (int part = 0; part < kGpuSegment / 32; ++part) {
    uint32_t a[2][4];
    QS_UNROLL for (int k = 0; k < 2; ++k) probabilities(2 * part + k, a[k]);
    QS_UNROLL for (int u = 0; u < kUnits; ++u) {
      uint32_t b[2][2][2];
      LoadValues<kDim, kInt8>(values, part, unit, more_units + u, b);
      QS_UNROLL for (int k = 0; k < 2; ++k) {
        QS_UNROLL for (int n = 0; n < 2; ++n) MmaBf16(sum[2 * u + n], a[k], b[k][n]);
      }
    }
  }
}

// --- Joining ----------------------------------------------------------------------------------

// The factors of what was there and of what comes, for one row.
struct JoinFactors {
  float old_factor, new_factor;
};

// Of nothing, maximum -infinity, and a part is the part as it is; of a state and a part whose
// positions the row does not see, the state.
QS_DEVICE JoinFactors Join(float& maximum, float& total, float part_maximum, float part_total) {
  const float joined = Max(maximum, part_maximum);
  const JoinFactors f = {Exp2Fast(maximum - joined), Exp2Fast(part_maximum - joined)};
  maximum = joined;
  total = Fma(total, f.old_factor, part_total * f.new_factor);
  return f;
}

QS_DEVICE float JoinSum(float sum, float part, const JoinFactors& f) {
  return Fma(sum, f.old_factor, part * f.new_factor);
}

// Never -0, as that depends on what parts a row does not see.
QS_DEVICE float Normalized(float sum, float inverse_total) { return Fma(sum, inverse_total, 0.0f); }

// A lane's elements of 16 dims of one row, tiles 2u and 2u + 1, columns first and first + 1.
template <bool kInt8>
QS_DEVICE void StoreOutput(const float even[4], const float odd[4], int first, float inverse_total,
                           uint16_t* out) {
  float x[4] = {even[first], even[first + 1], odd[first], odd[first + 1]};
  QS_UNROLL for (int i = 0; i < 4; ++i) x[i] = Normalized(x[i], inverse_total);
  const int t = LaneIndex() % 4;
  if constexpr (kInt8) {
    *reinterpret_cast<Word2*>(out + 4 * t) = {PackBf16(x[0], x[2]), PackBf16(x[1], x[3])};
  } else {
    *reinterpret_cast<uint32_t*>(out + 2 * t) = PackBf16(x[0], x[1]);
    *reinterpret_cast<uint32_t*>(out + 8 + 2 * t) = PackBf16(x[2], x[3]);
  }
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_ATTENTION_ATTENTION_TILE_INL_H_
