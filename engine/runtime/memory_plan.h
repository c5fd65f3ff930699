#ifndef QWENSERVE_ENGINE_RUNTIME_MEMORY_PLAN_H_
#define QWENSERVE_ENGINE_RUNTIME_MEMORY_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/loader/weight_choice.h"
#include "engine/model/model_config.h"
#include "engine/runtime/rank_settings.h"
#include "kernels/device_memory.h"
#include "kernels/kv_format.h"

namespace qwenserve {

// What a replica will take of the memory of its devices, from config.json alone: before anything is
// loaded, and for machines that are not at hand. All sizes in bytes.

struct MemoryRequest {
  DeviceKind device = DeviceKind::kCpu;
  WeightChoice weights = WeightChoice::kAuto;
  KvFormat kv_format = KvFormat::kBf16;
  int tp = 1;
  int64_t max_rows = 512;      // of a step
  int64_t max_sequences = 64;  // in a step
  int64_t max_model_len = 0;   // 0 = the checkpoint's
  int64_t sample_pairs = 64;   // EngineOptions
  bool fast = false;           // EngineOptions::gpu_mode
};

// What a rank's settings ask for.
MemoryRequest RequestOf(const RankSettings& settings);
DeviceKind KindOf(absl::string_view device);  // as RankSettings::device

struct RankMemory {
  int64_t weights = 0;
  int64_t step = 0;       // activations, the step's description, rotary tables, exchange of tokens
  int64_t workspace = 0;  // the backend's own
  int64_t kv_block = 0;   // one block of all layers

  int64_t fixed() const { return weights + step + workspace; }
};

// Of every rank: they differ where heads, FFN columns or vocabulary don't divide evenly.
// INVALID_ARGUMENT as MakeShardPlan and PlanWeights.
absl::StatusOr<std::vector<RankMemory>> PlanMemory(const ModelConfig& config,
                                                   const MemoryRequest& request);

// The rank that takes most, with so many KV blocks.
const RankMemory& LargestRank(const std::vector<RankMemory>& ranks, int64_t blocks);

// KV blocks for which there is room. `capacity`: of each rank's device, or of the host, whose
// memory the ranks share and which has half of what they leave for the KV cache. Negative when
// there is none even for the rest.
int64_t BlocksThatFit(const std::vector<RankMemory>& ranks, DeviceKind device, int64_t capacity);

// What to change so that a sequence of max_model_len fits into `capacity`, as flags of the server:
// first each single change that does, then, when there is none, the smallest of several together.
// "nothing that this server has" when nothing does.
std::string WhatWouldFit(const ModelConfig& config, const MemoryRequest& request, int64_t capacity);

// "1.50 GiB", below one "300.0 MiB".
std::string SizeText(int64_t bytes);

// "13.0 GiB of weights, 0.2 GiB for steps, ...", of one rank.
std::string DescribeRank(const RankMemory& rank);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_MEMORY_PLAN_H_
