#ifndef QWENSERVE_KERNELS_CPU_ISA_ATTENTION_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_ATTENTION_INL_H_

// Attention over a paged cache for up to kMaxAttentionQueries query vectors that share one KV head.
// Included once per instruction set, inside an anonymous namespace (see kernel_table.h), after
// elementwise_inl.h. The including file gives
//   Vf                          a vector of 8 or 16 floats; kPanelVectors of them make a panel's 16
//   kTileSums                   vectors of running sums that the registers hold beside the operands
//   Vf Fma(Vf a, Vf b, Vf c)    a * b + c, rounded once
//   LoadPanel<Format>(p, Vf*)   16 stored elements as floats, in the order of their columns
//   F32, Bf16, Int8Panel        formats with `Storage` and `kInterleaved`
#include "kernels/cpu/isa/attention_tile_inl.h"
#include "kernels/cpu/isa/kv_store_inl.h"

// From here on keys and values are widened to float once for all queries.
constexpr int64_t kExpandFromQueries = 2 * kAttentionTileRows + 1;

inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

constexpr int64_t kSegmentBlocks = kAttentionSegment / kPanelColumns;
constexpr int64_t kChunk = kGroupPanels * kPanelColumns;  // positions worked on at once

typedef int32_t Vi __attribute__((vector_size(sizeof(Vf))));

// 2^x for x <= 0, relative error below 2e-7; 2^-125 below -125; 2^0 = 1 exactly; NaN stays NaN.
// 2^n * 2^r, |r| <= 1/2, with 2^r = 1 + r g(r); g interpolates at Chebyshev nodes.
inline Vf Exp2(Vf x) {
  const Vf low = Broadcast(-125.0f);
  const Vf t = x < low ? low : x;
  const Vf magic = Broadcast(12582912.0f);  // adding it rounds to an integer, kept in the low bits
  const Vf shifted = t + magic;
  const Vf r = t - (shifted - magic);
  Vf g = Broadcast(0.000154531634f);
  g = Fma(g, r, Broadcast(0.00133908633f));
  g = Fma(g, r, Broadcast(0.00961808302f));
  g = Fma(g, r, Broadcast(0.0555035695f));
  g = Fma(g, r, Broadcast(0.240226507f));
  g = Fma(g, r, Broadcast(0.693147182f));
  return Fma(g, r, Broadcast(1.0f)) * (Vf)(((Vi)shifted + 127) << 23);
}

// A row's softmax over some positions: its maximum, its total and its sums of values.
struct SoftmaxState {
  float* sum;    // [queries][padded_dim]
  float* max;    // [queries]
  float* total;  // [queries]
};

inline SoftmaxState StateAt(float* memory, int64_t queries, int64_t padded_dim) {
  return {memory, memory + queries * padded_dim, memory + queries * (padded_dim + 1)};
}

// What lies in args.scratch.
struct AttentionScratch {
  int64_t padded_dim;
  int64_t queries;
  bool expanded;  // keys and values are widened to float once for all queries
  float* q;       // [queries][head_dim], scaled
  float* scores;  // [queries][kAttentionSegment], then probabilities
  float* keys;    // [kGroupPanels][head_dim][16]
  float* values;  // [padded_dim / 16][kChunk][16]
  SoftmaxState running;
  SoftmaxState part;  // of the segment at work
  // Blocks of the segment; behind them those that are read after it, or any others.
  const char* blocks[kSegmentBlocks + kGroupPanels];
};

template <typename Format>
inline AttentionScratch ScratchOf(const AttentionArgs& args) {
  AttentionScratch s;
  s.padded_dim = (args.head_dim + 15) / 16 * 16;
  s.queries = args.rows * args.heads;
  s.expanded = s.queries >= kExpandFromQueries || Format::kAlwaysExpand;
  s.q = args.scratch;
  s.scores = s.q + s.queries * args.head_dim;
  s.keys = s.scores + s.queries * kAttentionSegment;
  s.values = s.keys + kChunk * args.head_dim;
  float* states = s.values + kChunk * s.padded_dim;
  s.running = StateAt(states, s.queries, s.padded_dim);
  s.part = StateAt(states + s.queries * (s.padded_dim + 2), s.queries, s.padded_dim);
  return s;
}

// Positions of the segment that a query sees, its own included; may be negative or too many.
inline int64_t SeenBy(const AttentionArgs& args, int64_t query, int64_t segment_start) {
  return args.first_position + query / args.heads + 1 - segment_start;
}

// The first query that sees a position.
inline int64_t FirstThatSees(const AttentionArgs& args, int64_t position) {
  const int64_t row = position - args.first_position;
  return row <= 0 ? 0 : Min(row, args.rows) * args.heads;
}

// What is read kGroupPanels blocks after a block's keys, or values: at the end of a segment's keys
// its values begin, and behind those the next segment's keys.
inline const char* AfterKeys(const AttentionArgs& args, const AttentionScratch& s, int64_t block) {
  return block + kGroupPanels < kSegmentBlocks
             ? s.blocks[block + kGroupPanels]
             : s.blocks[block + kGroupPanels - kSegmentBlocks] + args.kv.value_offset;
}
inline const char* AfterValues(const AttentionArgs& args, const AttentionScratch& s,
                               int64_t block) {
  const char* next = s.blocks[block + kGroupPanels];
  return block + kGroupPanels < kSegmentBlocks ? next + args.kv.value_offset : next;
}

// Scores of the queries from `first` on over `count` blocks from the segment's block `block` on.
template <typename Format>
void ScoreBlocks(const AttentionArgs& args, const AttentionScratch& s, int64_t first, int64_t block,
                 int count) {
  using T = typename Format::Storage;
  const int64_t dim = args.head_dim, rows = s.queries - first;
  const float* q = s.q + first * dim;
  float* scores = s.scores + first * kAttentionSegment + block * kPanelColumns;
  const char* const* blocks = s.blocks + block;
  if (s.expanded) {
    const float* panels[kGroupPanels];
    for (int p = 0; p < count; ++p) {
      float* out = s.keys + p * dim * kPanelColumns;
      ExpandKeys<Format>(blocks[p], AfterKeys(args, s, block + p), args.kv, dim, out);
      panels[p] = out;
    }
    AttentionTiles<F32, false>(rows, count, q, dim, panels, panels, kPanelColumns, dim, false,
                               scores, kAttentionSegment);
  } else if constexpr (!Format::kAlwaysExpand) {
    const T* panels[kGroupPanels];
    const T* next[kGroupPanels];
    for (int p = 0; p < count; ++p) {
      panels[p] = reinterpret_cast<const T*>(blocks[p]);
      next[p] = reinterpret_cast<const T*>(AfterKeys(args, s, block + p));
    }
    AttentionTiles<Format, true>(rows, count, q, dim, panels, next, kPanelColumns, dim, false,
                                 scores, kAttentionSegment);
  }
}

// v in the lanes of vector `vector` of a panel whose column is below `valid`, else `other`.
inline Vf KeepValid(Vf v, int vector, int64_t valid, float other) {
  constexpr float kColumns[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Vf column = LoadVf(kColumns + vector * kVectorFloats);
  return column < Broadcast(static_cast<float>(valid)) ? v : Broadcast(other);
}

inline float MaxOfPanel(const Vf* lanes) {
  float all[kPanelColumns];
  __builtin_memcpy(all, lanes, sizeof all);
  return MaxLanes(Max8(Load8(all), Load8(all + 8)));
}

// Scales 16 scores if the format asks for it, takes those from `valid` on for -infinity, and raises
// the lanes' maxima. NaN is left out of them, and makes its probability NaN later.
template <typename Format, bool full>
inline void MaxBlock(const char* block, const KvHeadArgs& kv, int64_t valid, float* scores,
                     Vf* lanes) {
  for (int v = 0; v < kPanelVectors; ++v) {
    Vf score = LoadVf(scores + v * kVectorFloats);
    if constexpr (Format::kScaled) score = score * LoadVf(KeyScales(block, kv) + v * kVectorFloats);
    if constexpr (!full) score = KeepValid(score, v, valid, -__builtin_inff());
    if constexpr (Format::kScaled || !full) StoreVf(scores + v * kVectorFloats, score);
    lanes[v] = score > lanes[v] ? score : lanes[v];
  }
}

// Turns 16 scores into probabilities, 0 from `valid` on, and adds them to the lanes' totals.
template <typename Format, bool full>
inline void ExpBlock(const char* block, const KvHeadArgs& kv, int64_t valid, Vf shift,
                     float* scores, Vf* lanes) {
  for (int v = 0; v < kPanelVectors; ++v) {
    Vf p = Exp2(LoadVf(scores + v * kVectorFloats) - shift);
    if constexpr (!full) p = KeepValid(p, v, valid, 0);
    lanes[v] += p;
    if constexpr (Format::kScaled) p = p * LoadVf(ValueScales(block, kv) + v * kVectorFloats);
    StoreVf(scores + v * kVectorFloats, p);
  }
}

// Turns a query's scores of a segment, of which it sees the first `seen`, into probabilities
// relative to their maximum.
template <typename Format>
void SoftmaxSegment(const AttentionArgs& args, const AttentionScratch& s, int64_t seen,
                    float* scores, float* max, float* total) {
  const int64_t full = seen / kPanelColumns, rest = seen % kPanelColumns;
  float* tail = scores + full * kPanelColumns;
  Vf lanes[kPanelVectors];
  for (Vf& lane : lanes) lane = Broadcast(-__builtin_inff());
  for (int64_t b = 0; b < full; ++b) {
    MaxBlock<Format, true>(s.blocks[b], args.kv, 0, scores + b * kPanelColumns, lanes);
  }
  if (rest != 0) MaxBlock<Format, false>(s.blocks[full], args.kv, rest, tail, lanes);
  *max = MaxOfPanel(lanes);
  const Vf shift = Broadcast(*max);
  for (Vf& lane : lanes) lane = Vf{};
  for (int64_t b = 0; b < full; ++b) {
    ExpBlock<Format, true>(s.blocks[b], args.kv, 0, shift, scores + b * kPanelColumns, lanes);
  }
  if (rest != 0) ExpBlock<Format, false>(s.blocks[full], args.kv, rest, shift, tail, lanes);
  float all[kPanelColumns];
  __builtin_memcpy(all, lanes, sizeof all);
  *total = SumLanes(Load8(all) + Load8(all + 8));
}

// sum[d] += the chain of p[t] * v[t][d] over `count` positions from start + offset of the segment
// on, for the queries first .. end. All are in the chunk that begins at start; offset is 0 unless
// values are expanded.
template <typename Format>
void AddValues(const AttentionArgs& args, const AttentionScratch& s, const SoftmaxState& state,
               int64_t first, int64_t end, int64_t start, int64_t offset, int64_t count) {
  using T = typename Format::Storage;
  constexpr int64_t kColumns = kGroupPanels * kPanelColumns;
  for (int64_t c = 0; c < s.padded_dim; c += kColumns) {
    const int panels = static_cast<int>(Min(kColumns, s.padded_dim - c) / kPanelColumns);
    float* sum = state.sum + first * s.padded_dim + c;
    const float* p = s.scores + first * kAttentionSegment + start + offset;
    if (s.expanded) {
      const float* columns[kGroupPanels];
      for (int i = 0; i < panels; ++i) {
        columns[i] = s.values + (c + i * kPanelColumns) * kChunk + offset * kPanelColumns;
      }
      AttentionTiles<F32, false>(end - first, panels, p, kAttentionSegment, columns, columns,
                                 kPanelColumns, count, start + offset != 0, sum, s.padded_dim);
      continue;
    }
    if constexpr (!Format::kAlwaysExpand) {
      for (int64_t t = 0; t < count; t += kPanelColumns) {
        const int64_t block = (start + t) / kPanelColumns;
        const char* next = AfterValues(args, s, block);
        const T* columns[kGroupPanels];
        const T* next_columns[kGroupPanels];
        for (int i = 0; i < panels; ++i) {
          columns[i] = reinterpret_cast<const T*>(s.blocks[block] + args.kv.value_offset) + c +
                       i * kPanelColumns;
          next_columns[i] = reinterpret_cast<const T*>(next) + c + i * kPanelColumns;
        }
        AttentionTiles<Format, true>(end - first, panels, p + t, kAttentionSegment, columns,
                                     next_columns, s.padded_dim, Min(kPanelColumns, count - t),
                                     start + t != 0, sum, s.padded_dim);
      }
    }
  }
}

// The values of the chunk that begins at `start` of the segment, for the queries that see any of
// it.
template <typename Format>
void AddChunk(const AttentionArgs& args, const AttentionScratch& s, const SoftmaxState& state,
              int64_t segment_start, int64_t start, int64_t count) {
  const int64_t partly = FirstThatSees(args, segment_start + start);
  const int64_t fully = FirstThatSees(args, segment_start + start + count - 1);
  AddValues<Format>(args, s, state, fully, s.queries, start, 0, count);
  // Rows whose own position is in the chunk: a tile of them goes as far as its first row sees.
  const int64_t rows = s.expanded ? Max(1, kAttentionTileRows / args.heads) : 1;
  for (int64_t j = partly; j < fully; j += rows * args.heads) {
    const int64_t end = Min(j + rows * args.heads, fully);
    const int64_t common = SeenBy(args, j, segment_start) - start;
    AddValues<Format>(args, s, state, j, end, start, 0, common);
    for (int64_t i = j + args.heads; i < end; i += args.heads) {
      AddValues<Format>(args, s, state, i, i + args.heads, start, common,
                        SeenBy(args, i, segment_start) - start - common);
    }
  }
}

// The softmax of one segment, for the queries that see any of it.
template <typename Format>
void AttentionSegment(const AttentionArgs& args, AttentionScratch& s, int64_t segment,
                      const SoftmaxState& state) {
  const int64_t segment_start = segment * kAttentionSegment;
  const int64_t last_position = args.first_position + args.rows - 1;
  const int64_t positions = Min(kAttentionSegment, last_position + 1 - segment_start);
  const int64_t blocks = (positions + kPanelColumns - 1) / kPanelColumns;
  for (int64_t b = 0; b < kSegmentBlocks + kGroupPanels; ++b) {
    const int64_t at = Min(segment * kSegmentBlocks + b, last_position / kPanelColumns);
    s.blocks[b] = args.kv.data + args.block_table[at] * args.kv.block_bytes;
  }
  for (int64_t b = 0; b < blocks; b += kGroupPanels) {
    const int count = static_cast<int>(Min(kGroupPanels, blocks - b));
    const int64_t last = segment_start + (b + count - 1) * kPanelColumns;
    if (FirstThatSees(args, last) == 0) {
      ScoreBlocks<Format>(args, s, 0, b, count);
      continue;
    }
    for (int i = 0; i < count; ++i) {
      const int64_t position = segment_start + (b + i) * kPanelColumns;
      ScoreBlocks<Format>(args, s, FirstThatSees(args, position), b + i, 1);
    }
  }
  const int64_t first = FirstThatSees(args, segment_start);
  for (int64_t j = first; j < s.queries; ++j) {
    const int64_t seen = Min(SeenBy(args, j, segment_start), kAttentionSegment);
    SoftmaxSegment<Format>(args, s, seen, s.scores + j * kAttentionSegment, &state.max[j],
                           &state.total[j]);
  }
  for (int64_t start = 0; start < positions; start += kChunk) {
    const int64_t chunk = Min(kChunk, positions - start);
    if (s.expanded) {
      for (int64_t at = 0; at < chunk; at += kPanelColumns) {
        const int64_t block = (start + at) / kPanelColumns;
        ExpandValues<Format>(s.blocks[block], AfterValues(args, s, block), args.kv,
                             Min(kPanelColumns, chunk - at), s.padded_dim,
                             s.values + at * kPanelColumns);
      }
    }
    AddChunk<Format>(args, s, state, segment_start, start, chunk);
  }
}

// Joins a later segment's softmax of one query to the running one.
inline void MergeQuery(const SoftmaxState& part, int64_t query, int64_t padded_dim,
                       const SoftmaxState& running) {
  const float a = running.max[query], b = part.max[query];
  const float max = b > a ? b : a;
  const float old_factor = Exp2(Broadcast(a - max))[0], factor = Exp2(Broadcast(b - max))[0];
  Map(
      padded_dim, running.sum + query * padded_dim,
      [=](V8 x, V8 y) { return x * old_factor + y * factor; }, running.sum + query * padded_dim,
      part.sum + query * padded_dim);
  running.total[query] = running.total[query] * old_factor + part.total[query] * factor;
  running.max[query] = max;
}

inline void FinishAttention(const AttentionArgs& args, const SoftmaxState& state,
                            int64_t padded_dim) {
  for (int64_t j = 0; j < args.rows * args.heads; ++j) {
    float* out = args.out + j / args.heads * args.out_row_stride + j % args.heads * args.head_dim;
    const float inverse = 1.0f / state.total[j];
    Map(
        args.head_dim, out, [inverse](V8 v) { return v * inverse; }, state.sum + j * padded_dim);
  }
}

template <typename Format>
void Attention(const AttentionArgs& args) {
  AttentionScratch s = ScratchOf<Format>(args);
  for (int64_t j = 0; j < s.queries; ++j) {
    const float* q = args.q + j / args.heads * args.q_row_stride + j % args.heads * args.head_dim;
    Map(
        args.head_dim, s.q + j * args.head_dim, [&args](V8 v) { return v * args.scale; }, q);
  }
  for (int64_t segment = args.segment_begin; segment < args.segment_end; ++segment) {
    if (args.partials != nullptr) {
      float* memory = args.partials + segment * s.queries * (s.padded_dim + 2);
      AttentionSegment<Format>(args, s, segment, StateAt(memory, s.queries, s.padded_dim));
      continue;
    }
    AttentionSegment<Format>(args, s, segment, segment == 0 ? s.running : s.part);
    if (segment == 0) continue;
    for (int64_t j = FirstThatSees(args, segment * kAttentionSegment); j < s.queries; ++j) {
      MergeQuery(s.part, j, s.padded_dim, s.running);
    }
  }
  if (args.partials == nullptr) FinishAttention(args, s.running, s.padded_dim);
}

void MergeAttention(const AttentionArgs& args) {
  const int64_t queries = args.rows * args.heads, padded_dim = (args.head_dim + 15) / 16 * 16;
  const SoftmaxState running = StateAt(args.partials, queries, padded_dim);
  for (int64_t segment = 1; segment < args.segment_end; ++segment) {
    float* memory = args.partials + segment * queries * (padded_dim + 2);
    const SoftmaxState part = StateAt(memory, queries, padded_dim);
    for (int64_t j = FirstThatSees(args, segment * kAttentionSegment); j < queries; ++j) {
      MergeQuery(part, j, padded_dim, running);
    }
  }
  FinishAttention(args, running, padded_dim);
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_ATTENTION_INL_H_
