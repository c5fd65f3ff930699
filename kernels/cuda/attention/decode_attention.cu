// Attention of one row: the query heads of a KV head (16 at most) share each segment's keys and
// values. Four warps take 32 keys each for the scores, then a quarter of the dims each for the
// sums.
#include "kernels/cuda/attention/attention_tile_inl.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {

template <int kDim, bool kInt8>
struct DecodeAttention {
  using Args = DecodeArgs;
  using Memory = SegmentMemory<kDim, kInt8>;
  using Exchange = DecodeExchange;
  static constexpr int kThreads = kDecodeThreads;
  static constexpr int kMinBlocks = 3;
  static constexpr int kUnits = kDim / 64;  // of 16 dims, of a warp
  static constexpr int kTiles = 2 * kUnits;
  static_assert(kThreads == 128 && kGpuSegment == 128);

  // What the block works on, and this lane's part of the state of its run.
  struct Work {
    const DecodeArgs* args;
    int row, sequence, position;
    int part;                     // (row, KV head, head tile), for the counters
    int kv_head, query, queries;  // heads: of keys; the first of queries, and how many
    int segments, run, busy;
    int64_t records;  // of the row's first query head
    RowPair maximum, total;
    float sum[kTiles][4];
  };

  QS_DEVICE static char* ExchangeAt(int offset) { return SharedMemory() + Memory::kBytes + offset; }
  // Of this lane's rows.
  QS_DEVICE static int LowRow() { return LaneIndex() / 4; }

  QS_DEVICE static void Run(const Args& args) {
    Work work;
    const bool busy = FindWork(args, work);
    // This block's segments: the run, or every so many of those behind it.
    const int index = static_cast<int>(BlockIndex().z);
    const bool first_block = index == 0;
    const int begin = first_block ? 0 : work.run + index - 1;
    const int end = first_block ? work.run : work.segments;
    const int step = first_block ? 1 : args.plan.blocks - 1;
    const int second = begin + step < end ? begin + step : -1;

    SegmentStream<kDim, kInt8, kThreads> stream = {
        MakeKvSource(args.attention, work.sequence, work.kv_head, work.position)};
    // What may still run before this kernel stores nothing but the row's own position.
    const bool has_last = begin + 1 == work.segments;
    if (busy && work.position >= 0) {
      if (has_last) {
        stream.StartWithoutLast();
      } else {
        stream.Start(begin, second);
      }
    }
    GridDependencyWait();
    GridDependencyTrigger();
    if (!busy) return;
    if (work.position < 0) {
      StoreZeros(work);
      return;
    }
    if (has_last) stream.AddLast();
    uint32_t q[kDim / 16][4];
    const int head_dim = args.attention.heads.head_dim;
    const float* query = args.attention.qkv +
                         static_cast<int64_t>(work.row) * args.attention.heads.qkv_width() +
                         work.query * head_dim;
    const int low = LowRow();
    LoadQueries<kDim, kInt8>(low < work.queries ? query + low * head_dim : nullptr,
                             low + 8 < work.queries ? query + (low + 8) * head_dim : nullptr,
                             head_dim, args.attention.scale, q);
    for (int segment = begin, turn = 0; segment < end; segment += step, ++turn) {
      const int next = segment + step < end ? segment + step : -1;
      const int following = next + step < end && next >= 0 ? next + step : -1;
      Segment(stream, q, segment, next, following, turn, work);
      if (!first_block) StoreRecord(work, segment - work.run + 1);
    }
    if (work.run == work.segments) {
      StoreRow(work);
      return;
    }
    if (first_block) StoreRecord(work, 0);
    if (IsLast(work)) JoinRecords(work);
  }

  // False: there is nothing to do for this block. The lists of the step that it reads are older
  // than any kernel that may still run.
  QS_DEVICE static bool FindWork(const Args& args, Work& work) {
    const GridIndex block = BlockIndex();
    const GpuHeads& heads = args.attention.heads;
    const int item = static_cast<int>(block.y);  // row or sequence
    const int tiles = HeadTiles(heads);
    work = {};
    work.args = &args;
    work.row = item;
    work.part = item * static_cast<int>(GridSize().x) + static_cast<int>(block.x);
    work.kv_head = static_cast<int>(block.x) / tiles;
    if (!args.by_row) {
      work.row = LoadFromL2(args.attention.row_starts + item);
      if (LoadFromL2(args.attention.row_starts + item + 1) - work.row != 1) return false;
    }
    const int tile = static_cast<int>(block.x) % tiles;
    work.query = heads.QueryBegin(work.kv_head) + tile * kDecodeHeads;
    work.queries = heads.QueryEnd(work.kv_head) - work.query;
    work.queries = work.queries < kDecodeHeads ? work.queries : kDecodeHeads;
    if (work.queries <= 0) return false;
    work.position = LoadFromL2(args.attention.positions + work.row);
    if (work.position < 0) return block.z == 0;
    work.sequence = LoadFromL2(args.attention.sequences + work.row);
    work.segments = SegmentsOf(work.position);
    work.run = RunLength(args.plan, work.segments);
    work.busy = BusyBlocks(args.plan, work.segments);
    work.records = (static_cast<int64_t>(item) * heads.num_query_heads + work.query) *
                   args.plan.slots * PartialFloats(heads.head_dim);
    ClearState(work);
    return static_cast<int>(block.z) < work.busy;
  }

  QS_DEVICE static void ClearState(Work& work) {
    work.maximum = {-BitsToFloat(0x7f800000u), -BitsToFloat(0x7f800000u)};
    work.total = {0, 0};
    QS_UNROLL for (int n = 0; n < kTiles; ++n) {
      QS_UNROLL for (int i = 0; i < 4; ++i) work.sum[n][i] = 0;
    }
  }

  // Joins a segment to the state; behind the run each is alone.
  QS_DEVICE static void Segment(SegmentStream<kDim, kInt8, kThreads>& stream,
                                const uint32_t q[kDim / 16][4], int segment, int next,
                                int following, int turn, Work& work) {
    const int low = LowRow(), key = 32 * WarpIndex(), t = LaneIndex() % 4;
    auto* maxima = reinterpret_cast<float*>(ExchangeAt(Exchange::kMaxima));
    auto* totals = reinterpret_cast<float*>(ExchangeAt(Exchange::kTotals));
    const float* scales = stream.ScalesOf(turn);
    const int visible = work.position + 1 - segment * kGpuSegment;

    stream.WaitForOlder();  // keys
    float s[4][4];
    Scores<kDim, kInt8, 4>(
        SharedMemory() + Memory::kKeys, key,
        [q](int k, uint32_t a[4]) { QS_UNROLL for (int i = 0; i < 4; ++i) a[i] = q[k][i]; }, s);
    RowPair largest = MaxOfLanes(MaskScores<kInt8, 4>(scales, key, visible, visible, s));
    if (t == 0) {
      maxima[WarpIndex() * kDecodeHeads + low] = largest.low;
      maxima[WarpIndex() * kDecodeHeads + low + 8] = largest.high;
    }
    SyncThreads();
    stream.StartKeys(next, following, turn + 1);
    QS_UNROLL for (int warp = 0; warp < Exchange::kWarps; ++warp) {
      largest.low = Max(largest.low, maxima[warp * kDecodeHeads + low]);
      largest.high = Max(largest.high, maxima[warp * kDecodeHeads + low + 8]);
    }
    uint32_t p[4][2];
    const RowPair part = Probabilities<kInt8>(scales, key, largest, s, p);
    StoreProbabilities(key, p);
    totals[(WarpIndex() * kDecodeHeads + low) * 4 + t] = part.low;
    totals[(WarpIndex() * kDecodeHeads + low + 8) * 4 + t] = part.high;

    stream.WaitForOlder();  // values; and probabilities and totals of all warps
    RowPair total = {totals[low * 4 + t], totals[(low + 8) * 4 + t]};
    QS_UNROLL for (int warp = 1; warp < Exchange::kWarps; ++warp) {
      total.low += totals[(warp * kDecodeHeads + low) * 4 + t];
      total.high += totals[(warp * kDecodeHeads + low + 8) * 4 + t];
    }
    total = SumOfLanes(total);
    float sum[kTiles][4];
    WeightValues<kDim, kInt8, kUnits>(
        SharedMemory() + Memory::kValues, WarpIndex() * kUnits, 0,
        [](int k, uint32_t a[4]) {
          const int lane = LaneIndex();
          LoadMatrix4(a, ExchangeAt(Exchange::kProbabilities) +
                             lane % 16 * Exchange::kProbabilityStride + 32 * k + lane / 16 * 16);
        },
        sum);
    SyncThreads();
    stream.StartValues(next);
    if (segment >= work.run) ClearState(work);
    const JoinFactors f_low = Join(work.maximum.low, work.total.low, largest.low, total.low);
    const JoinFactors f_high = Join(work.maximum.high, work.total.high, largest.high, total.high);
    QS_UNROLL for (int n = 0; n < kTiles; ++n) {
      QS_UNROLL for (int i = 0; i < 4; ++i) {
        work.sum[n][i] = JoinSum(work.sum[n][i], sum[n][i], i < 2 ? f_low : f_high);
      }
    }
  }

  QS_DEVICE static void StoreProbabilities(int key, const uint32_t p[4][2]) {
    const int low = LowRow(), t = LaneIndex() % 4;
    QS_UNROLL for (int n = 0; n < 4; ++n) {
      QS_UNROLL for (int r = 0; r < 2; ++r) {
        char* row = ExchangeAt(Exchange::kProbabilities) +
                    (low + 8 * r) * Exchange::kProbabilityStride + 2 * (key + 8 * n + 2 * t);
        *reinterpret_cast<uint32_t*>(row) = p[n][r];
      }
    }
  }

  QS_DEVICE static uint16_t* OutputOf(const Work& work, int query) {
    const AttentionArgs& args = work.args->attention;
    return args.out + static_cast<int64_t>(work.row) * args.heads.query_width() +
           (work.query + query) * args.heads.head_dim;
  }

  QS_DEVICE static void StoreZeros(const Work& work) {
    uint16_t* out = OutputOf(work, 0);
    const int count = work.queries * work.args->attention.heads.head_dim;
    for (int i = ThreadIndex(); i < count; i += kThreads) out[i] = 0;
  }

  QS_DEVICE static void StoreRow(const Work& work) {
    const int head_dim = work.args->attention.heads.head_dim;
    const float inverse[2] = {1.0f / work.total.low, 1.0f / work.total.high};
    QS_UNROLL for (int r = 0; r < 2; ++r) {
      const int query = LowRow() + 8 * r;
      if (query >= work.queries) continue;
      QS_UNROLL for (int unit = 0; unit < kUnits; ++unit) {
        const int dim = (WarpIndex() * kUnits + unit) * 16;
        if (dim >= head_dim) continue;
        StoreOutput<kInt8>(work.sum[2 * unit], work.sum[2 * unit + 1], 2 * r, inverse[r],
                           OutputOf(work, query) + dim);
      }
    }
  }

  QS_DEVICE static void StoreRecord(const Work& work, int slot) {
    const int head_dim = work.args->attention.heads.head_dim;
    const int floats = PartialFloats(head_dim);
    QS_UNROLL for (int r = 0; r < 2; ++r) {
      const int query = LowRow() + 8 * r;
      if (query >= work.queries) continue;
      float* record = work.args->partials + work.records +
                      (static_cast<int64_t>(query) * work.args->plan.slots + slot) * floats;
      QS_UNROLL for (int n = 0; n < kTiles; ++n) {
        const int dim = (WarpIndex() * kUnits + n / 2) * 16;
        if (dim >= head_dim) continue;
        QS_UNROLL for (int c = 0; c < 2; ++c) {
          record[dim + ColumnOf<kInt8>(n % 2, c)] = work.sum[n][2 * r + c];
        }
      }
      if (WarpIndex() == 0 && LaneIndex() % 4 == 0) {
        record[head_dim] = r == 0 ? work.maximum.low : work.maximum.high;
        record[head_dim + 1] = r == 0 ? work.total.low : work.total.high;
      }
    }
  }

  // Whether all other blocks of this part have stored their records.
  QS_DEVICE static bool IsLast(const Work& work) {
    auto* last = reinterpret_cast<int32_t*>(ExchangeAt(Exchange::kLast));
    ThreadFence();
    SyncThreads();
    if (ThreadIndex() == 0) {
      int32_t* arrived = work.args->arrived + work.part;
      *last = AtomicAdd(arrived, 1) == work.busy - 1 ? 1 : 0;
      if (*last != 0) *arrived = 0;  // for the next launch
    }
    SyncThreads();
    ThreadFence();
    return *last != 0;
  }

  // A thread takes four dims of a query head, and several records at once to have them under way.
  QS_DEVICE static void JoinRecords(const Work& work) {
    constexpr int kAtOnce = 8;  // each wait is some 0.2 us, and 32768 positions are 256 records
    const int head_dim = work.args->attention.heads.head_dim;
    const int floats = PartialFloats(head_dim), quads = head_dim / 4;
    const int slots = work.segments - work.run + 1;
    for (int i = ThreadIndex(); i < work.queries * quads; i += kThreads) {
      const int query = i / quads, dim = i % quads * 4;
      const float* record = work.args->partials + work.records +
                            static_cast<int64_t>(query) * work.args->plan.slots * floats;
      float maximum = -BitsToFloat(0x7f800000u), total = 0, sum[4] = {};
      for (int slot = 0; slot < slots; slot += kAtOnce) {
        Float4 part[kAtOnce], state[kAtOnce];
        QS_UNROLL for (int j = 0; j < kAtOnce; ++j) {
          if (slot + j >= slots) continue;
          part[j] = LoadFromL2(reinterpret_cast<const Float4*>(record + j * floats + dim));
          state[j] = LoadFromL2(reinterpret_cast<const Float4*>(record + j * floats + head_dim));
        }
        record += kAtOnce * floats;
        QS_UNROLL for (int j = 0; j < kAtOnce; ++j) {
          if (slot + j >= slots) continue;
          const JoinFactors f = Join(maximum, total, state[j].x, state[j].y);
          sum[0] = JoinSum(sum[0], part[j].x, f);
          sum[1] = JoinSum(sum[1], part[j].y, f);
          sum[2] = JoinSum(sum[2], part[j].z, f);
          sum[3] = JoinSum(sum[3], part[j].w, f);
        }
      }
      const float inverse = 1.0f / total;
      QS_UNROLL for (int j = 0; j < 4; ++j) sum[j] = Normalized(sum[j], inverse);
      *reinterpret_cast<Word2*>(OutputOf(work, query) + dim) = {PackBf16(sum[0], sum[1]),
                                                                PackBf16(sum[2], sum[3])};
    }
  }
};

}  // namespace

void AddDecodeAttention(AttentionKernels& kernels) {
  kernels.decode[0][0] = MakeKernel<DecodeAttention<64, false>>("decode_attention_64_bf16");
  kernels.decode[0][1] = MakeKernel<DecodeAttention<64, true>>("decode_attention_64_int8");
  kernels.decode[1][0] = MakeKernel<DecodeAttention<128, false>>("decode_attention_128_bf16");
  kernels.decode[1][1] = MakeKernel<DecodeAttention<128, true>>("decode_attention_128_int8");
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
