#ifndef QWENSERVE_KERNELS_CPU_ATTENTION_PLAN_H_
#define QWENSERVE_KERNELS_CPU_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "kernels/attention_batch.h"

namespace qwenserve {

// One KV head's bytes in a block of the CPU's cache: keys, then values (kernel_table.h).
struct KvHeadBytes {
  int64_t keys = 0;
  int64_t total = 0;
};
KvHeadBytes CpuKvHeadBytes(const HeadLayout& heads, KvFormat format);

// One piece of a PagedAttention call: some query heads of one KV head for some consecutive rows of
// one sequence.
struct AttentionItem {
  int64_t row = 0;
  int64_t rows = 0;
  int32_t kv_head = 0;
  int32_t query_head = 0;
  int32_t query_heads = 0;
};

// Cuts the batch into items of at most kMaxAttentionQueries queries, and into at least about
// num_threads of them where heads allow it. Items that cost most come first.
std::vector<AttentionItem> PlanAttention(const AttentionBatch& batch, const HeadLayout& heads,
                                         int num_threads);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_ATTENTION_PLAN_H_
