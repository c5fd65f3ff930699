#include "kernels/cpu/attention_plan.h"

#include <algorithm>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {
namespace {

// An item that costs more than this share of a thread's fair part is cut: what the last item to be
// begun can keep the others waiting for.
constexpr int64_t kItemsPerThread = 8;
// Reading a position's key and value costs as much as computing with it for so many queries.
constexpr int64_t kReadQueries = 4;
// Bounds the memory for partials (16 MiB); beyond it items stay whole.
constexpr int64_t kMaxPartialFloats = int64_t{4} << 20;

int64_t PaddedDim(int64_t head_dim) {
  return (head_dim + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
}

int64_t Cost(const AttentionBatch& batch, const AttentionItem& item) {
  const int64_t last = batch.positions[item.row + item.rows - 1];
  const int64_t end = std::min(item.segment_end * kAttentionSegment, last + 1);
  return (end - item.segment_begin * kAttentionSegment) *
         (item.rows * item.query_heads + kReadQueries);
}

std::vector<AttentionItem> WholeItems(const AttentionBatch& batch, const HeadLayout& heads) {
  const int64_t group = std::min(heads.queries_per_kv, heads.num_query_heads);
  const auto heads_per_item = static_cast<int32_t>(std::min(group, kMaxAttentionQueries));
  const int64_t rows_per_item = kMaxAttentionQueries / heads_per_item;
  std::vector<AttentionItem> items;
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    for (int64_t row = batch.row_starts[s]; row < batch.row_starts[s + 1]; row += rows_per_item) {
      if (batch.positions[row] < 0) break;  // filling
      AttentionItem item;
      item.row = row;
      item.rows = std::min(rows_per_item, batch.row_starts[s + 1] - row);
      item.segment_end = batch.positions[row + item.rows - 1] / kAttentionSegment + 1;
      for (int32_t kv_head = 0; kv_head < heads.num_kv_heads; ++kv_head) {
        const int32_t first = std::max(0, kv_head * heads.queries_per_kv - heads.query_offset);
        const int32_t last = std::min(heads.num_query_heads,
                                      (kv_head + 1) * heads.queries_per_kv - heads.query_offset);
        for (int32_t head = first; head < last; head += heads_per_item) {
          item.kv_head = kv_head;
          item.query_head = head;
          item.query_heads = std::min(heads_per_item, last - head);
          items.push_back(item);
        }
      }
    }
  }
  return items;
}

// Appends `item` in pieces of nearly equally many segments.
void AppendCut(AttentionItem item, int64_t pieces, int64_t head_dim, AttentionPlan& plan) {
  AttentionCut cut;
  cut.items = static_cast<int32_t>(pieces);
  cut.segments = item.segment_end;
  cut.partials = plan.partial_floats;
  plan.partial_floats +=
      cut.segments * AttentionPartialFloats(item.rows * item.query_heads, head_dim);
  item.cut = static_cast<int32_t>(plan.cuts.size());
  plan.cuts.push_back(cut);
  for (int64_t i = 0; i < pieces; ++i) {
    item.segment_begin = cut.segments * i / pieces;
    item.segment_end = cut.segments * (i + 1) / pieces;
    plan.items.push_back(item);
  }
}

}  // namespace

KvHeadBytes CpuKvHeadBytes(const HeadLayout& heads, KvFormat format) {
  int64_t element = 1, floats_per_token = 0;
  switch (format) {
    case KvFormat::kF32:
      element = 4;
      break;
    case KvFormat::kBf16:
      element = 2;
      break;
    case KvFormat::kInt8:
      floats_per_token = 2;
      break;
    case KvFormat::kQwenInt8:
      floats_per_token = 4;
      break;
  }
  KvHeadBytes bytes;
  bytes.keys = heads.head_dim * kKvBlockSize * element;
  bytes.scale_offset = bytes.keys + PaddedDim(heads.head_dim) * kKvBlockSize * element;
  bytes.total =
      bytes.scale_offset + floats_per_token * kKvBlockSize * static_cast<int64_t>(sizeof(float));
  return bytes;
}

int64_t AttentionPartialFloats(int64_t queries, int64_t head_dim) {
  return queries * (PaddedDim(head_dim) + 2);
}

AttentionPlan PlanAttention(const AttentionBatch& batch, const HeadLayout& heads, int num_threads) {
  const std::vector<AttentionItem> whole = WholeItems(batch, heads);
  int64_t total = 0;
  for (const AttentionItem& item : whole) total += Cost(batch, item);
  const int64_t fair = std::max<int64_t>(1, total / (num_threads * kItemsPerThread));
  AttentionPlan plan;
  for (const AttentionItem& item : whole) {
    const int64_t wanted = num_threads == 1 ? 1 : (Cost(batch, item) + fair - 1) / fair;
    const int64_t pieces = std::min(wanted, item.segment_end);
    const int64_t floats =
        item.segment_end * AttentionPartialFloats(item.rows * item.query_heads, heads.head_dim);
    if (pieces <= 1 || plan.partial_floats + floats > kMaxPartialFloats) {
      plan.items.push_back(item);
    } else {
      AppendCut(item, pieces, heads.head_dim, plan);
    }
  }
  std::stable_sort(plan.items.begin(), plan.items.end(),
                   [&](const auto& a, const auto& b) { return Cost(batch, a) > Cost(batch, b); });
  return plan;
}

const AttentionPlan& AttentionPlanner::Plan(const AttentionBatch& batch, const HeadLayout& heads,
                                            int num_threads) {
  wanted_ = {heads.num_query_heads, heads.num_kv_heads, heads.head_dim,
             heads.queries_per_kv,  heads.query_offset, num_threads};
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    wanted_.push_back(batch.row_starts[s]);
    wanted_.push_back(batch.row_starts[s + 1]);
    // Positions of a sequence ascend by one.
    if (batch.row_starts[s] < batch.row_starts[s + 1]) {
      wanted_.push_back(batch.positions[batch.row_starts[s]]);
    }
  }
  if (wanted_ != key_) {
    plan_ = PlanAttention(batch, heads, num_threads);
    std::swap(key_, wanted_);
  }
  return plan_;
}

}  // namespace qwenserve
