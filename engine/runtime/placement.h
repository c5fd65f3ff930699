#ifndef QWENSERVE_ENGINE_RUNTIME_PLACEMENT_H_
#define QWENSERVE_ENGINE_RUNTIME_PLACEMENT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loader/checkpoint.h"
#include "engine/runtime/engine_options.h"
#include "engine/runtime/machine_limits.h"
#include "engine/runtime/rank_settings.h"

namespace qwenserve {

// How a replica is laid out on a machine: every choice that EngineOptions left open, made.
struct Placement {
  std::vector<RankSettings> ranks;
  // Of what is left to the ranks' devices (KvSizing), the most that they may decide for.
  int64_t max_model_len = 0;
  int64_t kv_bytes = 0;        // of all ranks; 0 where it is left to their devices
  int64_t kv_block_bytes = 0;  // of one block on all ranks
  // What was chosen and why, one line each, for the log.
  std::vector<std::string> reasons;
};

// Cores are split among the ranks, at least one each; threads are pinned only when somebody chose
// this process's cores and it uses all of them. Without kv_cache_bytes, half of the memory that the
// weights leave goes to the KV cache, but not more than max_running sequences of max_model_len can
// use. Without max_model_len, the checkpoint's length, or what the KV cache holds if that is less.
// GPUs have memory of their own: how much is free is known once the weights are there, so ranks on
// them are left to size the cache together (ModelRunner).
//
// INVALID_ARGUMENT naming the option; RESOURCE_EXHAUSTED with the numbers when a sequence of
// max_model_len has no room.
absl::StatusOr<Placement> ChoosePlacement(const EngineOptions& options,
                                          const Checkpoint& checkpoint, const CpuLimits& cpu,
                                          const MemoryLimits& free_memory);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_PLACEMENT_H_
