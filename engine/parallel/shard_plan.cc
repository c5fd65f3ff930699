#include "engine/parallel/shard_plan.h"

#include <algorithm>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

// The group of inputs that shares one scale in int4 and int8 weights: a rank boundary inside it
// would need the group's scale on both sides.
constexpr int64_t kGroup = 128;

// Part `rank` of `units` divided into tp parts, the larger ones first.
Range Split(int64_t units, int64_t unit, int tp, int rank) {
  const int64_t base = units / tp;
  const int64_t extra = units % tp;
  const int64_t begin = rank * base + std::min<int64_t>(rank, extra);
  return {begin * unit, (begin + base + (rank < extra ? 1 : 0)) * unit};
}

// 128, or for widths that are no multiple of it, or that have fewer groups than ranks (only tiny
// models), the largest power of two that divides the width and leaves every rank something.
int64_t FfnUnit(int64_t width, int tp) {
  int64_t unit = std::gcd(width, kGroup);
  while (unit > 1 && width / unit < tp) unit /= 2;
  return unit;
}

}  // namespace

absl::StatusOr<ShardPlan> MakeShardPlan(const ModelConfig& config, int tp, int rank) {
  if (tp < 1 || tp > config.num_query_heads) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor parallelism of ", tp, " is impossible: the model has ",
                     config.num_query_heads, " query heads, and each rank needs one"));
  }
  QS_CHECK(rank >= 0 && rank < tp);
  if (config.ffn_size < tp) {
    return absl::InvalidArgumentError(absl::StrCat("tensor parallelism of ", tp,
                                                   " is impossible: the FFN is only ",
                                                   config.ffn_size, " wide"));
  }
  ShardPlan plan;
  plan.rank = rank;
  plan.tp = tp;
  plan.query_heads = Split(config.num_query_heads, 1, tp, rank);
  const int64_t queries_per_kv = config.num_query_heads / config.num_kv_heads;
  plan.kv_heads = {plan.query_heads.begin / queries_per_kv,
                   (plan.query_heads.end - 1) / queries_per_kv + 1};
  const int64_t unit = FfnUnit(config.ffn_size, tp);
  plan.ffn = Split(config.ffn_size / unit, unit, tp, rank);
  plan.max_vocab_rows = (config.vocab_size + tp - 1) / tp;
  if (plan.max_vocab_rows * (tp - 1) >= config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("tensor parallelism of ", tp,
                                                   " is impossible: ", config.vocab_size,
                                                   " vocabulary rows leave the last rank none"));
  }
  plan.vocab = {rank * plan.max_vocab_rows,
                std::min((rank + 1) * plan.max_vocab_rows, config.vocab_size)};
  return plan;
}

HeadLayout ShardPlan::Heads(const ModelConfig& config) const {
  const int64_t queries_per_kv = config.num_query_heads / config.num_kv_heads;
  HeadLayout heads;
  heads.num_query_heads = static_cast<int32_t>(query_heads.size());
  heads.num_kv_heads = static_cast<int32_t>(kv_heads.size());
  heads.head_dim = static_cast<int32_t>(config.head_dim);
  heads.queries_per_kv = static_cast<int32_t>(queries_per_kv);
  heads.query_offset = static_cast<int32_t>(query_heads.begin % queries_per_kv);
  return heads;
}

}  // namespace qwenserve
