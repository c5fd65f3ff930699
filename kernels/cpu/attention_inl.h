#ifndef QWENSERVE_KERNELS_CPU_ATTENTION_INL_H_
#define QWENSERVE_KERNELS_CPU_ATTENTION_INL_H_

// Attention over a paged cache for up to kMaxAttentionQueries query vectors that share one KV head.
// Needs the tile of the including file, linear_inl.h and elementwise_inl.h.
// Included once per instruction set, inside an anonymous namespace (see kernel_table.h).

// From here on keys and values are widened to float once per block.
constexpr int64_t kExpandFromQueries = 7;

struct AttentionState {
  float* q;       // [queries][head_dim], scaled
  float* sum;     // [queries][padded_dim]
  float* scores;  // [queries][16], then probabilities
  float* keys;    // [head_dim][16]
  float* values;  // [16][padded_dim]
  float max[kMaxAttentionQueries];
  float total[kMaxAttentionQueries];
};

// Turns one row of 16 scores, the first `valid` of which count, into probabilities relative to the
// running maximum; rescales the row's sums when the maximum moved.
inline void SoftmaxBlock(float* scores, int64_t valid, float* max, float* total, float* sum,
                         int64_t padded_dim) {
  constexpr float kMinusInfinity = -__builtin_inff();
  for (int64_t t = valid; t < kPanelColumns; ++t) scores[t] = kMinusInfinity;
  const V8 low = Load8(scores), high = Load8(scores + 8);
  const float block_max = MaxLanes(Max8(low, high));
  const float new_max = block_max > *max ? block_max : *max;
  const V8 p_low = Exp8(low - new_max), p_high = Exp8(high - new_max);
  Store8(scores, p_low);
  Store8(scores + 8, p_high);
  const float block_total = SumLanes(p_low + p_high);
  if (new_max != *max) {
    const float correction = Exp8(Set8(*max - new_max))[0];
    Map(
        padded_dim, sum, [correction](V8 v) { return v * correction; }, sum);
    *total = *total * correction;
    *max = new_max;
  }
  *total += block_total;
}

// One block of 16 positions for the queries from `first` on, all of which see at least one of them.
template <typename Format>
void AttentionBlock(const AttentionArgs& args, int64_t first, int64_t queries, int64_t block_start,
                    const char* block, AttentionState& s) {
  using T = typename Format::Storage;
  const int64_t dim = args.head_dim, padded_dim = (dim + 15) / 16 * 16;
  const T* keys = reinterpret_cast<const T*>(block);
  const T* values = reinterpret_cast<const T*>(block + args.kv.value_offset);
  const int64_t count = queries - first;
  const bool expand = count >= kExpandFromQueries;
  float* scores = s.scores + first * kPanelColumns;
  if (expand) {
    ExpandPanel<Format>(keys, dim, s.keys);
    ExpandPanel<Format>(values, padded_dim, s.values);
    TileRows<F32, 1, false>(count, s.q + first * dim, dim, s.keys, kPanelColumns, 0, dim, false,
                            nullptr, scores, kPanelColumns);
  } else {
    TileRows<Format, 1, false>(count, s.q + first * dim, dim, keys, kPanelColumns, 0, dim, false,
                               nullptr, scores, kPanelColumns);
  }
  for (int64_t begin = first; begin < queries;) {
    // Queries that see equally many positions go on together.
    const int64_t seen = args.first_position + begin / args.heads - block_start + 1;
    const int64_t valid = Min(seen, kPanelColumns);
    const int64_t end = seen >= kPanelColumns ? queries : (begin / args.heads + 1) * args.heads;
    for (int64_t j = begin; j < end; ++j) {
      SoftmaxBlock(s.scores + j * kPanelColumns, valid, &s.max[j], &s.total[j],
                   s.sum + j * padded_dim, padded_dim);
    }
    const float* p = s.scores + begin * kPanelColumns;
    for (int64_t c = 0; c < padded_dim; c += kPanelColumns) {
      float* sum = s.sum + begin * padded_dim + c;
      if (expand) {
        TileRows<F32, 1, false>(end - begin, p, kPanelColumns, s.values + c, padded_dim, 0, valid,
                                true, nullptr, sum, padded_dim);
      } else {
        TileRows<Format, 1, false>(end - begin, p, kPanelColumns, values + c, padded_dim, 0, valid,
                                   true, nullptr, sum, padded_dim);
      }
    }
    begin = end;
  }
}

// Blocks lie anywhere in the cache, so the next one is asked for while this one is worked on.
inline void PrefetchBlock(const AttentionArgs& args, int64_t position) {
  const char* block =
      args.kv.data + args.block_table[position / kPanelColumns] * args.kv.block_bytes;
  const int64_t bytes = 2 * args.kv.value_offset;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(block + i);
}

template <typename Format>
void Attention(const AttentionArgs& args) {
  const int64_t dim = args.head_dim, padded_dim = (dim + 15) / 16 * 16;
  const int64_t queries = args.rows * args.heads;
  AttentionState s;
  s.q = args.scratch;
  s.sum = s.q + queries * dim;
  s.scores = s.sum + queries * padded_dim;
  s.keys = s.scores + queries * kPanelColumns;
  s.values = s.keys + dim * kPanelColumns;
  for (int64_t j = 0; j < queries; ++j) {
    const float* q = args.q + j / args.heads * args.q_row_stride + j % args.heads * dim;
    for (int64_t d = 0; d < dim; ++d) s.q[j * dim + d] = q[d] * args.scale;
    for (int64_t d = 0; d < padded_dim; ++d) s.sum[j * padded_dim + d] = 0;
    s.max[j] = -__builtin_inff();
    s.total[j] = 0;
  }
  const int64_t last_position = args.first_position + args.rows - 1;
  for (int64_t start = 0; start <= last_position; start += kPanelColumns) {
    if (start + kPanelColumns <= last_position) {
      PrefetchBlock(args, start + kPanelColumns);
    }
    const int64_t first_row = start > args.first_position ? start - args.first_position : 0;
    const char* block =
        args.kv.data + args.block_table[start / kPanelColumns] * args.kv.block_bytes;
    AttentionBlock<Format>(args, first_row * args.heads, queries, start, block, s);
  }
  for (int64_t j = 0; j < queries; ++j) {
    float* out = args.out + j / args.heads * args.out_row_stride + j % args.heads * dim;
    const float inverse = 1.0f / s.total[j];
    for (int64_t d = 0; d < dim; ++d) out[d] = s.sum[j * padded_dim + d] * inverse;
  }
}

#endif  // QWENSERVE_KERNELS_CPU_ATTENTION_INL_H_
