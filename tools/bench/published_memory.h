#ifndef QWENSERVE_TOOLS_BENCH_PUBLISHED_MEMORY_H_
#define QWENSERVE_TOOLS_BENCH_PUBLISHED_MEMORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/runtime/memory_plan.h"

namespace qwenserve {

// A row of the memory that Qwen's own README tells beside its speeds: one sequence that generates
// 2048 tokens, checkpoints in bf16 and GPTQ int8 and int4, on A100-80G.
struct PublishedMemory {
  std::string model;
  std::string format;
  double gigabytes = 0;
  int cards = 1;
  ModelConfig config;
};

std::vector<PublishedMemory> PublishedMemoryRows();

// Positions of such a run.
inline constexpr int64_t kPublishedLength = 2064;

// What one of us would take: of all ranks together, for one sequence, a KV cache in bf16 and steps
// of kGpuBatchTokens rows.
struct PlannedMemory {
  RankMemory ranks;      // sums; kv_block of all ranks
  int64_t kv_bytes = 0;  // of kPublishedLength positions
  int64_t total() const { return ranks.fixed() + kv_bytes; }
};
PlannedMemory PlanPublished(const ModelConfig& config, int tp, WeightChoice weights);

// Of cards of 80 GB: the smallest tensor parallelism that fits.
int CardsOf80(const ModelConfig& config, WeightChoice weights);

// As a page: the rows, ours beside them, and the arithmetic.
std::string PublishedMemoryPage();

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_PUBLISHED_MEMORY_H_
