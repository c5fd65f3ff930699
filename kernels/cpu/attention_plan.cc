#include "kernels/cpu/attention_plan.h"

#include <algorithm>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {

KvHeadBytes CpuKvHeadBytes(const HeadLayout& heads, KvFormat format) {
  const int64_t element = format == KvFormat::kF32 ? 4 : 2;
  const int64_t padded_dim = (heads.head_dim + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
  KvHeadBytes bytes;
  bytes.keys = heads.head_dim * kKvBlockSize * element;
  bytes.total = bytes.keys + padded_dim * kKvBlockSize * element;
  return bytes;
}

std::vector<AttentionItem> PlanAttention(const AttentionBatch& batch, const HeadLayout& heads,
                                         int num_threads) {
  const int64_t group = std::min(heads.queries_per_kv, heads.num_query_heads);
  const int64_t units = batch.num_rows * heads.num_kv_heads;
  // Heads of one group share their reads of the cache; they part only when threads would idle.
  int64_t heads_per_item = std::min(group, kMaxAttentionQueries);
  if (units < num_threads) {
    const int64_t pieces = (num_threads + units - 1) / std::max<int64_t>(units, 1);
    heads_per_item = std::min(heads_per_item, (group + pieces - 1) / pieces);
  }
  const int64_t rows_per_item = kMaxAttentionQueries / heads_per_item;

  std::vector<AttentionItem> items;
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    for (int64_t row = batch.row_starts[s]; row < batch.row_starts[s + 1]; row += rows_per_item) {
      const int64_t rows = std::min(rows_per_item, batch.row_starts[s + 1] - row);
      for (int32_t kv_head = 0; kv_head < heads.num_kv_heads; ++kv_head) {
        const int32_t first = std::max(0, kv_head * heads.queries_per_kv - heads.query_offset);
        const int32_t last = std::min(heads.num_query_heads,
                                      (kv_head + 1) * heads.queries_per_kv - heads.query_offset);
        for (int32_t head = first; head < last; head += static_cast<int32_t>(heads_per_item)) {
          const auto count = std::min<int32_t>(static_cast<int32_t>(heads_per_item), last - head);
          items.push_back({row, rows, kv_head, head, count});
        }
      }
    }
  }
  std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
    return batch.positions[a.row] > batch.positions[b.row];
  });
  return items;
}

}  // namespace qwenserve
