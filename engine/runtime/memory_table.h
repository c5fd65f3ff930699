#ifndef QWENSERVE_ENGINE_RUNTIME_MEMORY_TABLE_H_
#define QWENSERVE_ENGINE_RUNTIME_MEMORY_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/runtime/memory_plan.h"

namespace qwenserve {

// What a model takes of GPUs, by tensor parallelism, weights and KV cache, and what is left of
// cards of the usual sizes: for choosing machines.

struct CardSize {
  int gigabytes = 0;   // as it is sold
  int64_t memory = 0;  // bytes that a driver reports of such a card, about
};
absl::Span<const CardSize> CommonCards();

// What driver and libraries take of a card before anything is loaded, about.
inline constexpr int64_t kContextBytes = int64_t{600} << 20;

// What `fraction` of a card leaves for the plan.
int64_t UsableBytes(const CardSize& card, double fraction);

struct MemoryRow {
  MemoryRequest request;
  RankMemory rank;                 // the largest, with one sequence of max_model_len
  std::vector<int64_t> kv_tokens;  // that each of CommonCards has room for; -1: not even weights
};

// TP 1, 2, 4, 8 as far as the model can be cut, times the formats that its weights can have (one
// where they are quantised already), times KV caches in bf16 and int8. `base`: the rest of the
// request.
std::vector<MemoryRow> MemoryTable(const ModelConfig& config, const MemoryRequest& base,
                                   double fraction);

// "bf16", or how a checkpoint is quantised already.
std::string WeightsText(const ModelConfig& config, WeightChoice choice);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_MEMORY_TABLE_H_
