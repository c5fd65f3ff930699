#ifndef QWENSERVE_KERNELS_CPU_ATTENTION_PLAN_H_
#define QWENSERVE_KERNELS_CPU_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "kernels/attention_batch.h"

namespace qwenserve {

// One KV head's bytes in a block of the CPU's cache: keys, then values, then what belongs to a
// token as a whole (kernel_table.h).
struct KvHeadBytes {
  int64_t keys = 0;
  int64_t scale_offset = 0;
  int64_t total = 0;
};
KvHeadBytes CpuKvHeadBytes(const HeadLayout& heads, KvFormat format);

// One piece of a PagedAttention call: some query heads of one KV head for some consecutive rows of
// one sequence, over some segments (kAttentionSegment) of its positions.
struct AttentionItem {
  int64_t row = 0;
  int64_t rows = 0;
  int32_t kv_head = 0;
  int32_t query_head = 0;
  int32_t query_heads = 0;
  int64_t segment_begin = 0;
  int64_t segment_end = 0;
  int32_t cut = -1;  // index into cuts: other items have the other segments of these queries
};

// Queries whose segments were given to several items. The last to be done merges them.
struct AttentionCut {
  int32_t items = 0;
  int64_t segments = 0;
  int64_t partials = 0;  // where in the partials they begin, in floats
};

struct AttentionPlan {
  std::vector<AttentionItem> items;  // those that cost most come first
  std::vector<AttentionCut> cuts;
  int64_t partial_floats = 0;
};

// Floats that the softmax of one segment takes in AttentionArgs::partials.
int64_t AttentionPartialFloats(int64_t queries, int64_t head_dim);

// Cuts the batch into items of at most kMaxAttentionQueries queries, and those that would keep one
// thread busy while the others wait into ranges of segments. No bit depends on the cut.
AttentionPlan PlanAttention(const AttentionBatch& batch, const HeadLayout& heads, int num_threads);

// The plan of the last batch, kept for the model's other layers: they ask for the same.
class AttentionPlanner {
 public:
  const AttentionPlan& Plan(const AttentionBatch& batch, const HeadLayout& heads, int num_threads);

 private:
  std::vector<int32_t> key_;  // all that the plan depends on
  std::vector<int32_t> wanted_;
  AttentionPlan plan_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_ATTENTION_PLAN_H_
