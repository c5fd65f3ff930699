// The ops of CpuBackend that touch the KV cache.
#include <cmath>
#include <numbers>

#include "kernels/check.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/qwen_int8_kv.h"

namespace qwenserve {
namespace {

int64_t AttentionScratchFloats(int64_t head_dim) {
  const int64_t padded_dim = head_dim + kPanelColumns;
  constexpr int64_t kChunk = 4 * kPanelColumns;
  return kMaxAttentionQueries * (head_dim + kAttentionSegment) + 2 * kChunk * padded_dim +
         2 * AttentionPartialFloats(kMaxAttentionQueries, head_dim);
}

void CheckHeads(const HeadLayout& heads) {
  QS_CHECK(heads.num_query_heads > 0 && heads.num_kv_heads > 0 && heads.queries_per_kv > 0);
  QS_CHECK(heads.head_dim > 0 && heads.head_dim % 2 == 0);
  QS_CHECK(heads.query_offset >= 0 && heads.query_offset < heads.queries_per_kv);
  QS_CHECK((heads.num_query_heads + heads.query_offset - 1) / heads.queries_per_kv + 1 ==
           heads.num_kv_heads);
}

// A wrong block would let one sequence read another's keys.
void CheckBlocks(const AttentionBatch& batch, const KvLayer& kv) {
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    if (batch.row_starts[s] == batch.row_starts[s + 1]) continue;
    const int64_t last_position = batch.positions[batch.row_starts[s + 1] - 1];
    if (last_position < 0) continue;
    const int64_t last_block = last_position / kKvBlockSize;
    QS_CHECK(last_block < batch.max_blocks);
    const int32_t* table = batch.block_tables + s * batch.max_blocks;
    uint32_t largest = 0;  // a negative block is a large one here
    for (int64_t i = 0; i <= last_block; ++i) {
      const auto block = static_cast<uint32_t>(table[i]);
      largest = block > largest ? block : largest;
    }
    QS_CHECK(largest < static_cast<uint64_t>(kv.num_blocks));
  }
}

KvHeadArgs KvHead(const KvLayer& kv, const HeadLayout& heads, int32_t kv_head) {
  const KvHeadBytes bytes = CpuKvHeadBytes(heads, kv.format);
  return {.data = static_cast<char*>(kv.data) + kv_head * bytes.total,
          .block_bytes = bytes.total * heads.num_kv_heads,
          .value_offset = bytes.keys,
          .scale_offset = bytes.scale_offset};
}

int32_t BlockOf(const AttentionBatch& batch, int64_t row, const KvLayer& kv) {
  const int64_t number = batch.positions[row] / kKvBlockSize;
  QS_CHECK(number < batch.max_blocks);
  const int32_t block = batch.block_tables[batch.sequences[row] * batch.max_blocks + number];
  QS_CHECK(block >= 0 && block < kv.num_blocks);
  return block;
}

}  // namespace

size_t CpuBackend::KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const {
  return static_cast<size_t>(CpuKvHeadBytes(heads, format).total * heads.num_kv_heads);
}

void CpuBackend::NormRopeRow(const AttentionBatch& batch, const HeadLayout& heads,
                             const float* q_norm, const float* k_norm, float epsilon,
                             absl::Span<const RopeTable> rope, int64_t row, float* qkv) {
  const int64_t dim = heads.head_dim, position = batch.positions[row];
  const int32_t table = batch.rope_tables == nullptr ? 0 : batch.rope_tables[row];
  QS_CHECK(table >= 0 && static_cast<size_t>(table) < rope.size());
  QS_CHECK(position >= 0 && position < rope[table].max_positions);
  NormRopeArgs args = {.head = qkv + row * heads.qkv_width(),
                       .head_dim = dim,
                       .weight = q_norm,
                       .epsilon = epsilon,
                       .cos_sin = rope[table].cos_sin + position * dim,
                       .scale = batch.query_scales == nullptr ? 1.0f : batch.query_scales[row]};
  for (int32_t h = 0; h < heads.num_query_heads; ++h, args.head += dim) kernels_.norm_rope(args);
  args.weight = k_norm;
  args.scale = 1.0f;
  for (int32_t h = 0; h < heads.num_kv_heads; ++h, args.head += dim) kernels_.norm_rope(args);
}

void CpuBackend::StoreKvRow(const AttentionBatch& batch, const HeadLayout& heads, int64_t row,
                            const float* qkv, const KvLayer& kv) {
  const int64_t dim = heads.head_dim, slot = batch.positions[row] % kKvBlockSize;
  const int32_t block = BlockOf(batch, row, kv);
  const float* key = qkv + row * heads.qkv_width() + heads.query_width();
  for (int32_t h = 0; h < heads.num_kv_heads; ++h, key += dim) {
    const KvHeadArgs head = KvHead(kv, heads, h);
    kernels_.store_kv[static_cast<int>(kv.format)](key, key + heads.kv_width(), dim, slot,
                                                   head.data + block * head.block_bytes, head);
  }
}

void CpuBackend::StoreQwenInt8Rows(const AttentionBatch& batch, const HeadLayout& heads,
                                   int64_t sequence, int32_t kv_head, const float* qkv,
                                   const KvLayer& kv) {
  const int64_t dim = heads.head_dim, width = heads.qkv_width();
  const int64_t begin = batch.row_starts[sequence], end = batch.row_starts[sequence + 1];
  if (begin == end || batch.positions[begin] < 0) return;
  const float* key = qkv + begin * width + heads.query_width() + kv_head * dim;
  const float* value = key + heads.kv_width();
  const QwenInt8Range key_range = QwenInt8RangeOf(key, end - begin, width, dim);
  const QwenInt8Range value_range = QwenInt8RangeOf(value, end - begin, width, dim);
  const KvHeadArgs head = KvHead(kv, heads, kv_head);
  for (int64_t row = begin; row < end; ++row, key += width, value += width) {
    StoreQwenInt8(key, key_range, value, value_range, dim, batch.positions[row] % kKvBlockSize,
                  head.data + BlockOf(batch, row, kv) * head.block_bytes, head);
  }
}

void CpuBackend::NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads,
                                 const float* q_norm, const float* k_norm, float epsilon,
                                 absl::Span<const RopeTable> rope, float* qkv, const KvLayer& kv) {
  CheckHeads(heads);
  const bool by_row = kv.format != KvFormat::kQwenInt8;
  ParallelFor(batch.num_rows, heads.qkv_width(), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      if (batch.positions[row] < 0) continue;
      NormRopeRow(batch, heads, q_norm, k_norm, epsilon, rope, row, qkv);
      if (by_row) StoreKvRow(batch, heads, row, qkv, kv);
    }
  });
  if (by_row) return;
  ParallelForDynamic(batch.num_sequences * heads.num_kv_heads, [&](int64_t i, int) {
    StoreQwenInt8Rows(batch, heads, i / heads.num_kv_heads,
                      static_cast<int32_t>(i % heads.num_kv_heads), qkv, kv);
  });
}

void CpuBackend::PagedAttention(const AttentionBatch& batch, const HeadLayout& heads,
                                const float* qkv, const KvLayer& kv, void* out) {
  CheckHeads(heads);
  if (batch.num_rows == 0) return;
  CheckBlocks(batch, kv);
  const int64_t dim = heads.head_dim;
  const auto kernel = kernels_.attention[static_cast<int>(kv.format)];
  // The kernels take powers of two.
  const auto scale = static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(dim)));
  const AttentionPlan& plan = attention_planner_.Plan(batch, heads, pool_.num_threads());
  if (attention_partials_.size() < static_cast<size_t>(plan.partial_floats)) {
    attention_partials_.resize(plan.partial_floats);
  }
  if (attention_cuts_done_.size() < plan.cuts.size()) {
    attention_cuts_done_ = std::vector<std::atomic<int32_t>>(plan.cuts.size());
  }
  for (int64_t row = 0; row < batch.num_rows; ++row) {
    if (batch.positions[row] >= 0) continue;
    float* zeros = static_cast<float*>(out) + row * heads.query_width();
    std::fill(zeros, zeros + heads.query_width(), 0.0f);
  }
  ParallelForDynamic(static_cast<int64_t>(plan.items.size()), [&](int64_t i, int thread) {
    const AttentionItem& item = plan.items[i];
    AttentionArgs args;
    args.q = qkv + item.row * heads.qkv_width() + item.query_head * dim;
    args.q_row_stride = heads.qkv_width();
    args.rows = item.rows;
    args.heads = item.query_heads;
    args.head_dim = dim;
    args.first_position = batch.positions[item.row];
    args.block_table = batch.block_tables + batch.sequences[item.row] * batch.max_blocks;
    args.kv = KvHead(kv, heads, item.kv_head);
    args.scale = scale;
    args.segment_begin = item.segment_begin;
    args.segment_end = item.segment_end;
    args.partials =
        item.cut < 0 ? nullptr : attention_partials_.data() + plan.cuts[item.cut].partials;
    args.out = static_cast<float*>(out) + item.row * heads.query_width() + item.query_head * dim;
    args.out_row_stride = heads.query_width();
    args.scratch = Scratch(thread, AttentionScratchFloats(dim));
    kernel(args);
    if (item.cut < 0) return;
    std::atomic<int32_t>& done = attention_cuts_done_[item.cut];
    if (done.fetch_add(1) + 1 < plan.cuts[item.cut].items) return;
    done.store(0);  // for the next call
    args.segment_end = plan.cuts[item.cut].segments;
    kernels_.merge_attention(args);
  });
}

}  // namespace qwenserve
