#ifndef QWENSERVE_KERNELS_CUDA_ATTENTION_ATTENTION_PLAN_H_
#define QWENSERVE_KERNELS_CUDA_ATTENTION_ATTENTION_PLAN_H_

// How attention is cut into blocks of threads, and a block's shared memory. For the host, which
// launches, and for the kernels, which find their part.
#include <cstdint>

#include "kernels/attention_batch.h"

namespace qwenserve {

// Positions whose scores share one maximum; aligned to absolute position 0. What is computed of a
// segment, and that segments are joined in ascending order, is all that decides a row's bits.
inline constexpr int kGpuSegment = 128;
inline constexpr int kSegmentBlocks = kGpuSegment / kKvBlockSize;

constexpr int32_t SegmentsOf(int32_t last_position) { return last_position / kGpuSegment + 1; }

// --- Heads ------------------------------------------------------------------------------------

// What HeadLayout says, for kernels.
struct GpuHeads {
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t queries_per_kv = 1;
  int32_t query_offset = 0;

  constexpr int32_t query_width() const { return num_query_heads * head_dim; }
  constexpr int32_t qkv_width() const { return (num_query_heads + 2 * num_kv_heads) * head_dim; }
  // The local query heads of a KV head: [QueryBegin, QueryEnd).
  constexpr int32_t QueryBegin(int32_t kv_head) const {
    const int32_t begin = kv_head * queries_per_kv - query_offset;
    return begin > 0 ? begin : 0;
  }
  constexpr int32_t QueryEnd(int32_t kv_head) const {
    const int32_t end = (kv_head + 1) * queries_per_kv - query_offset;
    return end < num_query_heads ? end : num_query_heads;
  }
  // At least as many as any KV head has.
  constexpr int32_t MaxGroup() const {
    return queries_per_kv < num_query_heads ? queries_per_kv : num_query_heads;
  }
};

// --- Decode: one row, cut along its positions -------------------------------------------------

// Query heads of a block: the rows of a matrix product.
inline constexpr int kDecodeHeads = 16;
inline constexpr int kDecodeThreads = 128;

constexpr int32_t HeadTiles(const GpuHeads& heads) {
  return (heads.MaxGroup() + kDecodeHeads - 1) / kDecodeHeads;
}

// A record of the workspace: sums [head_dim], maximum, total, and two floats for alignment.
constexpr int32_t PartialFloats(int32_t head_dim) { return head_dim + 4; }

// `blocks` share the segments of each (row, KV head). The first joins a run of them, from segment 0
// on; each segment behind the run leaves a record of its own, so there are at most `slots` records
// per row and query head, slot 0 that of the run. The last to finish joins the records.
struct DecodePlan {
  int32_t blocks = 1;
  int32_t slots = 0;
};

// wanted_blocks: in all. partial_floats: what the workspace holds.
constexpr DecodePlan PlanDecode(int64_t rows, const GpuHeads& heads, int64_t max_blocks,
                                int64_t wanted_blocks, int64_t partial_floats) {
  const int64_t parts = rows * heads.num_kv_heads * HeadTiles(heads);
  const int64_t slots =
      partial_floats / (rows * heads.num_query_heads * PartialFloats(heads.head_dim));
  const int64_t segments = (max_blocks + kSegmentBlocks - 1) / kSegmentBlocks;
  int64_t blocks = wanted_blocks / parts;
  blocks = blocks < segments ? blocks : segments;
  if (blocks < 2 || slots < 2) return {};
  return {static_cast<int32_t>(blocks), static_cast<int32_t>(slots < segments ? slots : segments)};
}

// How many of a row's segments the first block joins.
constexpr int32_t RunLength(const DecodePlan& plan, int32_t segments) {
  if (plan.blocks == 1) return segments;
  const int32_t share = (segments + plan.blocks - 1) / plan.blocks;
  const int32_t least = segments - plan.slots + 1;
  return share > least ? share : least;
}

// How many of a row's blocks have anything to do.
constexpr int32_t BusyBlocks(const DecodePlan& plan, int32_t segments) {
  const int32_t others = segments - RunLength(plan, segments);
  return 1 + (others < plan.blocks - 1 ? others : plan.blocks - 1);
}

// --- Prefill: tiles of queries, each over all its positions -----------------------------------

// Queries of a tile: (row, query head of the group), flat, row after row.
inline constexpr int kPrefillQueries = 128;
inline constexpr int kPrefillThreads = 256;

// Tiles are numbered so that a sequence's first is found without sums over sequences; a few numbers
// stand for no tile. `group`: query heads of the KV head.
constexpr int64_t FirstPrefillTile(int64_t row_start, int64_t sequence, int64_t group) {
  return row_start * group / kPrefillQueries + sequence;
}

// --- Shared memory ----------------------------------------------------------------------------

// A segment's keys, or values, of one head, or a tile's queries, as rows of 16-byte pieces. The
// pieces of a row change places so that any eight rows have piece number p in different banks: the
// rows that ldmatrix takes at once, without padding.
template <int kDim, bool kInt8>
struct KvTile {
  static constexpr int kRowBytes = kDim * (kInt8 ? 1 : 2);
  static constexpr int kPieces = kRowBytes / 16;
  static constexpr int kBytes = kGpuSegment * kRowBytes;
  static_assert(kRowBytes % 128 == 0 || kRowBytes == 64);
  static constexpr int kTurn = kRowBytes == 64 ? 4 : 8;  // pieces that change places

  static constexpr int At(int row, int piece) {
    return row * kRowBytes + (piece ^ row * kTurn / 8 % kTurn) * 16;
  }
};

// Keys, values, and scales of keys and values of this segment and the next.
template <int kDim, bool kInt8>
struct SegmentMemory {
  using Tile = KvTile<kDim, kInt8>;
  static constexpr int kKeys = 0;
  static constexpr int kValues = Tile::kBytes;
  static constexpr int kScales = 2 * Tile::kBytes;
  static constexpr int kScaleFloats = 2 * kGpuSegment;  // of one segment
  static constexpr int kBytes = kScales + (kInt8 ? 2 * kScaleFloats * 4 : 0);
};

// Behind it the queries of a tile of prefill, as bf16 in any format.
template <int kDim, bool kInt8>
struct PrefillMemory {
  static constexpr int kQueries = SegmentMemory<kDim, kInt8>::kBytes;
  static constexpr int kBytes = kQueries + kPrefillQueries * kDim * 2;
};

// Or where the warps of decode meet.
struct DecodeExchange {
  static constexpr int kWarps = kDecodeThreads / 32;
  static constexpr int kProbabilityStride = kGpuSegment * 2 + 16;
  static constexpr int kProbabilities = 0;                               // bf16 [heads][keys]
  static constexpr int kMaxima = kDecodeHeads * kProbabilityStride;      // [warps][heads]
  static constexpr int kTotals = kMaxima + kWarps * kDecodeHeads * 4;    // [.][.][4 lanes]
  static constexpr int kLast = kTotals + kWarps * kDecodeHeads * 4 * 4;  // int32
  static constexpr int kBytes = kLast + 16;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_ATTENTION_ATTENTION_PLAN_H_
