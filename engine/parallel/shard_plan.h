#ifndef QWENSERVE_ENGINE_PARALLEL_SHARD_PLAN_H_
#define QWENSERVE_ENGINE_PARALLEL_SHARD_PLAN_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "kernels/attention_batch.h"

namespace qwenserve {

// Half-open range of rows or columns of the whole model.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// What one rank of a tensor-parallel group holds. Units that do not divide evenly go to the lower
// ranks first, so that any tp up to the number of query heads works.
struct ShardPlan {
  int rank = 0;
  int tp = 1;
  Range query_heads;  // columns of q, rows of the output projection
  Range kv_heads;     // every KV head that the query heads use; neighbours may share one
  Range ffn;          // whole quantisation groups of 128 where the width allows
  Range vocab;        // rows of embedding and head: max_vocab_rows each, but for the last rank
  // Rows of every rank's embedding and head, and width of its part in a gather: the last rank's are
  // filled up with zero rows. id = rank * max_vocab_rows + row.
  int64_t max_vocab_rows = 0;

  HeadLayout Heads(const ModelConfig& config) const;
};

// INVALID_ARGUMENT with both numbers when tp is below 1 or above the number of query heads, or when
// a rank would be left without FFN columns or vocabulary rows.
absl::StatusOr<ShardPlan> MakeShardPlan(const ModelConfig& config, int tp, int rank);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_PARALLEL_SHARD_PLAN_H_
