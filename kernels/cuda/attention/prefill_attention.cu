// Attention of a tile of queries, (row, head) flat, that share a KV head, over all positions that
// the last of them sees. Eight warps take 16 queries each; the tile's segments pass through shared
// memory once.
#include "kernels/cuda/attention/attention_tile_inl.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {

template <int kDim, bool kInt8>
struct PrefillAttention {
  using Args = PrefillArgs;
  using Memory = SegmentMemory<kDim, kInt8>;
  using QueryTile = KvTile<kDim, false>;
  static constexpr int kThreads = kPrefillThreads;
  static constexpr int kMinBlocks = 1;
  static constexpr int kUnits = kDim / 16;  // of 16 dims
  static constexpr int kKeyTiles = kGpuSegment / 8;
  static_assert(kPrefillQueries == kThreads / 32 * 16);

  struct Tile {
    int sequence, kv_head;
    int row_start, rows;
    int query, group;  // first query head, how many
    int first, count;  // flat queries of the sequence
  };

  // One of this lane's two queries.
  struct Query {
    int row = -1, head = 0;  // row -1: none
    int position = -1;
  };

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyWait();
    GridDependencyTrigger();
    Tile tile;
    if (!FindTile(args.attention, tile)) return;
    const AttentionArgs& a = args.attention;
    const int first = 16 * WarpIndex() + LaneIndex() / 4;
    const int low_position = FindQuery(a, tile, first).position;
    const int high_position = FindQuery(a, tile, first + 8).position;
    // Positions ascend, so the warp's first query sees least and the tile's last one most.
    // Positions ascend.
    const int last = FindQuery(a, tile, tile.count - 1).position;
    const int segments = last < 0 ? 0 : SegmentsOf(last);

    RowPair maximum = {-BitsToFloat(0x7f800000u), -BitsToFloat(0x7f800000u)}, total = {0, 0};
    float sum[2 * kUnits][4] = {};
    SegmentStream<kDim, kInt8, kThreads> stream = {
        MakeKvSource(a, tile.sequence, tile.kv_head, last)};
    if (segments > 0) stream.Start(0, segments > 1 ? 1 : -1);
    StoreQueries(a, tile);
    for (int segment = 0; segment < segments; ++segment) {
      const int next = segment + 1 < segments ? segment + 1 : -1;
      const int following = segment + 2 < segments ? segment + 2 : -1;
      const int start = segment * kGpuSegment;
      stream.WaitForOlder();  // keys
      float s[kKeyTiles][4];
      Scores<kDim, kInt8, kKeyTiles>(SharedMemory() + Memory::kKeys, 0, LoadQuery, s);
      SyncThreads();
      stream.StartKeys(next, following, segment + 1);
      const float* scales = stream.ScalesOf(segment);
      const RowPair largest = MaxOfLanes(MaskScores<kInt8, kKeyTiles>(
          scales, 0, low_position + 1 - start, high_position + 1 - start, s));
      uint32_t p[kKeyTiles][2];
      const RowPair part = SumOfLanes(AllProbabilities(scales, largest, s, p));
      const JoinFactors low = Join(maximum.low, total.low, largest.low, part.low);
      const JoinFactors high = Join(maximum.high, total.high, largest.high, part.high);
      stream.WaitForOlder();  // values
      JoinValues(p, low, high, sum);
      SyncThreads();
      stream.StartValues(next);
    }
    FindTile(a, tile);  // again, instead of registers
    Store(a, FindQuery(a, tile, first), sum, 0, total.low);
    Store(a, FindQuery(a, tile, first + 8), sum, 2, total.high);
  }

  QS_DEVICE static RowPair AllProbabilities(const float* scales, RowPair largest,
                                            float s[kKeyTiles][4], uint32_t p[kKeyTiles][2]) {
    RowPair total = Probabilities<kInt8>(scales, 0, largest, s, p);
    QS_UNROLL for (int i = 1; i < kKeyTiles / 4; ++i) {
      const RowPair part = Probabilities<kInt8>(scales, 32 * i, largest, s + 4 * i, p + 4 * i);
      total.low += part.low;
      total.high += part.high;
    }
    return total;
  }

  // 16 dims at a time, so that a segment's own sums are few.
  QS_DEVICE static void JoinValues(const uint32_t p[kKeyTiles][2], const JoinFactors& low,
                                   const JoinFactors& high, float sum[2 * kUnits][4]) {
    QS_UNROLL for (int unit = 0; unit < kUnits; ++unit) {
      // The compiler would have more loads under way than there are registers.
      if (unit != 0 && unit % 4 == 0) SyncNamed(1 + WarpIndex(), 32);
      float part[2][4];
      WeightValues<kDim, kInt8, 1>(
          SharedMemory() + Memory::kValues, 0, unit,
          [p](int k, uint32_t a[4]) {
            a[0] = p[2 * k][0];
            a[1] = p[2 * k][1];
            a[2] = p[2 * k + 1][0];
            a[3] = p[2 * k + 1][1];
          },
          part);
      QS_UNROLL for (int n = 0; n < 2; ++n) {
        QS_UNROLL for (int i = 0; i < 4; ++i) {
          float& x = sum[2 * unit + n][i];
          x = JoinSum(x, part[n][i], i < 2 ? low : high);
        }
      }
    }
  }

  // False: this number stands for no tile, or for one that decode does.
  QS_DEVICE static bool FindTile(const AttentionArgs& args, Tile& tile) {
    const GridIndex block = BlockIndex();
    tile.kv_head = static_cast<int>(block.x);
    tile.query = args.heads.QueryBegin(tile.kv_head);
    tile.group = args.heads.QueryEnd(tile.kv_head) - tile.query;
    // Later tiles of a sequence see more, so they come first.
    const auto number = static_cast<int64_t>(GridSize().y - 1 - block.y);
    int low = 0, high = args.num_sequences - 1;  // the last sequence that begins at or before
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (FirstPrefillTile(args.row_starts[middle], middle, tile.group) <= number) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    tile.sequence = low;
    tile.row_start = args.row_starts[low];
    tile.rows = args.row_starts[low + 1] - tile.row_start;
    const int64_t index = number - FirstPrefillTile(tile.row_start, low, tile.group);
    const int64_t first = index * kPrefillQueries;
    const int64_t all = static_cast<int64_t>(tile.rows) * tile.group;
    if (tile.rows <= 1 || first >= all) return false;
    tile.first = static_cast<int>(first);
    tile.count = static_cast<int>(all - first < kPrefillQueries ? all - first : kPrefillQueries);
    return true;
  }

  QS_DEVICE static Query FindQuery(const AttentionArgs& args, const Tile& tile, int index) {
    Query query;
    if (index >= tile.count) return query;
    const int flat = tile.first + index;
    query.row = tile.row_start + flat / tile.group;
    query.head = tile.query + flat % tile.group;
    query.position = args.positions[query.row];
    return query;
  }

  QS_DEVICE static char* QueryMemory() {
    return SharedMemory() + PrefillMemory<kDim, kInt8>::kQueries;
  }

  // The tile's queries, scaled and rounded to bf16, to shared memory: 16 dims at a time in the
  // order that products take them in.
  QS_DEVICE static void StoreQueries(const AttentionArgs& args, const Tile& tile) {
    QS_NO_UNROLL for (int i = ThreadIndex(); i < kPrefillQueries * kUnits; i += kThreads) {
      const int index = i / kUnits, unit = i % kUnits;
      const Query query = FindQuery(args, tile, index);
      Float4 x[4];
      if (query.row >= 0 && 16 * unit < args.heads.head_dim) {
        const auto* from = reinterpret_cast<const Float4*>(
            args.qkv + static_cast<int64_t>(query.row) * args.heads.qkv_width() +
            query.head * args.heads.head_dim + 16 * unit);
        QS_UNROLL for (int j = 0; j < 4; ++j) x[j] = from[j];
      }
      uint32_t words[8];
      QS_UNROLL for (int j = 0; j < 4; ++j) {
        const float a = x[j].x * args.scale, b = x[j].y * args.scale;
        const float c = x[j].z * args.scale, d = x[j].w * args.scale;
        words[kInt8 ? j : 2 * j] = kInt8 ? PackBf16(a, c) : PackBf16(a, b);
        words[kInt8 ? j + 4 : 2 * j + 1] = kInt8 ? PackBf16(b, d) : PackBf16(c, d);
      }
      QS_UNROLL for (int j = 0; j < 2; ++j) {
        *reinterpret_cast<Word4*>(QueryMemory() + QueryTile::At(index, 2 * unit + j)) = {
            words[4 * j], words[4 * j + 1], words[4 * j + 2], words[4 * j + 3]};
      }
    }
  }

  // The warp's fragment of dims 16 k and on.
  QS_DEVICE static void LoadQuery(int k, uint32_t a[4]) {
    const int lane = LaneIndex();
    LoadMatrix4(
        a, LaneRow<QueryTile>(QueryMemory(), 16 * WarpIndex() + lane % 16, lane / 16, 0, 2 * k));
  }

  QS_DEVICE static void Store(const AttentionArgs& args, const Query& query,
                              const float sum[2 * kUnits][4], int first, float total) {
    if (query.row < 0) return;
    uint16_t* out = args.out + static_cast<int64_t>(query.row) * args.heads.query_width() +
                    query.head * args.heads.head_dim;
    const float inverse = 1.0f / total;
    const float zeros[4] = {};
    QS_UNROLL for (int unit = 0; unit < kUnits; ++unit) {
      if (16 * unit >= args.heads.head_dim) continue;
      if (query.position < 0) {
        StoreOutput<kInt8>(zeros, zeros, 0, 0.0f, out + 16 * unit);
      } else {
        StoreOutput<kInt8>(sum[2 * unit], sum[2 * unit + 1], first, inverse, out + 16 * unit);
      }
    }
  }
};

}  // namespace

void AddPrefillAttention(AttentionKernels& kernels) {
  kernels.prefill[0][0] = MakeKernel<PrefillAttention<64, false>>("prefill_attention_64_bf16");
  kernels.prefill[0][1] = MakeKernel<PrefillAttention<64, true>>("prefill_attention_64_int8");
  kernels.prefill[1][0] = MakeKernel<PrefillAttention<128, false>>("prefill_attention_128_bf16");
  kernels.prefill[1][1] = MakeKernel<PrefillAttention<128, true>>("prefill_attention_128_int8");
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
