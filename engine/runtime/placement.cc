#include "engine/runtime/placement.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "engine/loader/weight_loader.h"
#include "engine/parallel/shard_plan.h"
#include "engine/runtime/device_choice.h"
#include "engine/runtime/memory_plan.h"
#include "kernels/cuda_info.h"
#include "kernels/device_memory.h"

namespace qwenserve {
namespace {

// For activations, code, libraries and the requests themselves.
constexpr int64_t kReserveBytes = int64_t{256} << 20;
// More than any machine has cores; asking for a million must not end the process.
constexpr int kMaxThreads = 4096;
constexpr absl::Duration kMaxStep = absl::Hours(1);

absl::Status CheckPositive(absl::string_view name, int64_t value) {
  if (value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, ", must be positive"));
}

absl::Status CheckOptions(const EngineOptions& options) {
  QS_RETURN_IF_ERROR(CheckPositive("max_running", options.max_running));
  QS_RETURN_IF_ERROR(CheckPositive("max_waiting", options.max_waiting));
  QS_RETURN_IF_ERROR(
      CheckPositive("step_timeout (ms)", absl::ToInt64Milliseconds(options.step_timeout)));
  if (options.max_step < absl::ZeroDuration() || options.max_step > kMaxStep) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_step is ", absl::FormatDuration(options.max_step),
        ", must be 0 (chosen from what decoding takes) to ", absl::FormatDuration(kMaxStep)));
  }
  if (options.max_model_len < 0 || options.kv_cache_bytes < 0 || options.memory_limit < 0 ||
      options.num_threads < 0 || options.max_batch_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_model_len (", options.max_model_len, "), kv_cache_bytes (", options.kv_cache_bytes,
        "), memory_limit (", options.memory_limit, "), num_threads (", options.num_threads,
        ") and max_batch_tokens (", options.max_batch_tokens, ") must not be negative"));
  }
  if (options.gpu_mode != "exact" && options.gpu_mode != "fast") {
    return absl::InvalidArgumentError(
        absl::StrCat("gpu_mode is \"", options.gpu_mode, "\", must be exact or fast"));
  }
  // Activations are sized for these; a slip of the keyboard must not ask for terabytes.
  if (options.max_batch_tokens > (1 << 20) || options.max_running > (1 << 16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_batch_tokens (", options.max_batch_tokens, ") must be at most ", 1 << 20,
                     " and max_running (", options.max_running, ") at most ", 1 << 16));
  }
  if (options.sample_pairs < 0 || options.sample_pairs > kMaxSamplePairs) {
    return absl::InvalidArgumentError(
        absl::StrCat("sample_pairs is ", options.sample_pairs, ", must be 0 to ", kMaxSamplePairs));
  }
  if (!(options.gpu_memory_fraction > 0 && options.gpu_memory_fraction <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "gpu_memory_fraction is ", options.gpu_memory_fraction, ", must be above 0 and at most 1"));
  }
  if (options.num_threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_threads is ", options.num_threads, ", must be at most ", kMaxThreads));
  }
  if (options.num_nodes < 1 || options.tp % options.num_nodes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tp is ", options.tp, ", which does not cut into ", options.num_nodes, " equal nodes"));
  }
  if (options.rank_mode == RankMode::kProcesses && options.tp > 1 && options.rank_binary.empty()) {
    return absl::InvalidArgumentError("ranks as processes need rank_binary");
  }
  return absl::OkStatus();
}

void SplitCores(const EngineOptions& options, const CpuLimits& cpu, Placement* placement) {
  const int total = options.num_threads > 0 ? options.num_threads : cpu.usable();
  // With fewer threads than cores the choice is the kernel's: another process with the same share
  // would pin its threads to the same ones.
  const int local = options.tp / options.num_nodes;
  const bool pin =
      cpu.is_share() && total >= local && total == static_cast<int>(cpu.allowed.size());
  int used = 0;
  for (int r = 0; r < options.tp; ++r) {
    RankSettings& rank = placement->ranks[r];
    rank.num_threads = std::max(1, total / local + (r % local < total % local ? 1 : 0));
    if (pin && r < local) {  // what other nodes' cores are called is not known here
      rank.cpus.assign(cpu.allowed.begin() + used, cpu.allowed.begin() + used + rank.num_threads);
    }
    used += rank.num_threads;
  }
  placement->reasons.push_back(
      absl::StrCat("threads: ", used, " for ", options.tp, " rank(s)",
                   options.num_nodes > 1 ? absl::StrCat(" on ", options.num_nodes, " nodes") : "",
                   pin ? ", pinned" : "", options.num_threads > 0 ? " (as told)" : "",
                   "; the machine has ", cpu.machine, " cores, allowed are ", cpu.allowed.size(),
                   cpu.quota > 0 ? absl::StrCat(", the cgroup quota is ", cpu.quota) : ""));
}

absl::StatusOr<int64_t> BlockBytesOfAllRanks(const ModelConfig& config,
                                             const Placement& placement) {
  int64_t bytes = 0;
  for (const RankSettings& rank : placement.ranks) {
    QS_ASSIGN_OR_RETURN(const ShardPlan shard, MakeShardPlan(config, rank.tp, rank.rank));
    bytes += config.num_layers *
             KvBytesPerBlock(KindOf(rank.device), shard.Heads(config), rank.kv_format);
  }
  return bytes;
}

// What is the same whoever sizes the KV cache.
void SetLimits(const EngineOptions& options, int64_t length, int64_t blocks, Placement* placement) {
  placement->max_model_len = length;
  for (RankSettings& rank : placement->ranks) {
    const int64_t chosen = rank.device == "cpu" ? kCpuBatchTokens : kGpuBatchTokens;
    rank.limits.max_rows = options.max_batch_tokens > 0 ? options.max_batch_tokens : chosen;
    rank.limits.max_sequences = std::min(options.max_running, rank.limits.max_rows);
    rank.limits.max_model_len = length;
    rank.limits.num_blocks = blocks;
  }
}

// From the memory that is free on the devices when all else is there.
void LeaveKvCacheToRanks(const EngineOptions& options, int64_t length, Placement* placement) {
  SetLimits(options, length, 0, placement);
  for (RankSettings& rank : placement->ranks) {
    rank.kv_sizing.memory_fraction = options.gpu_memory_fraction;
    rank.kv_sizing.most_blocks = std::min<int64_t>(options.max_running * BlocksFor(length),
                                                   std::numeric_limits<int32_t>::max());
    rank.kv_sizing.may_shorten = options.max_model_len == 0;
  }
}

// `available`: of the host's memory, for weights and all else.
std::string WhatWouldFitHere(const RankSettings& rank, const ModelConfig& config, int64_t length,
                             int64_t available) {
  MemoryRequest request = RequestOf(rank);
  request.max_model_len = length;
  return absl::StrCat("; what would fit: ", WhatWouldFit(config, request, available));
}

absl::Status SizeKvCache(const EngineOptions& options, const Checkpoint& checkpoint,
                         const MemoryLimits& memory, Placement* placement) {
  const ModelConfig& config = checkpoint.config();
  if (options.max_model_len > config.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("max_model_len is ", options.max_model_len,
                                                   ", the checkpoint's limit is ",
                                                   config.max_positions));
  }
  int64_t length = options.max_model_len > 0 ? options.max_model_len : config.max_positions;
  QS_ASSIGN_OR_RETURN(const int64_t block_bytes, BlockBytesOfAllRanks(config, *placement));
  placement->kv_block_bytes = block_bytes;
  SetLimits(options, length, 0, placement);
  const bool own_memory = KindOf(placement->ranks.front().device) != DeviceKind::kCpu;
  if (own_memory && options.kv_cache_bytes == 0) {
    LeaveKvCacheToRanks(options, length, placement);
    return absl::OkStatus();
  }
  int64_t weights = 0;
  for (const RankSettings& rank : placement->ranks) {
    QS_ASSIGN_OR_RETURN(const ShardPlan shard, MakeShardPlan(config, rank.tp, rank.rank));
    QS_ASSIGN_OR_RETURN(const int64_t bytes, LoadedBytes(checkpoint, shard, rank.weights));
    weights += bytes;
  }

  int64_t bytes = options.kv_cache_bytes;
  // The other nodes are taken to have as much as this one.
  const int64_t available = memory.available * options.num_nodes;
  const int64_t left = available - weights - kReserveBytes * options.num_nodes;
  std::string why =
      own_memory || bytes <= left ? "as told" : absl::StrCat("as told, of ", left, " bytes left");
  if (bytes == 0) {
    const int64_t useful = options.max_running * BlocksFor(length);
    bytes = std::max<int64_t>(0, left) / 2;
    why = absl::StrCat("half of what ", weights, " bytes of weights leave of ", available, ", ",
                       memory.reason);
    if (bytes / block_bytes > useful) {
      bytes = useful * block_bytes;
      why = absl::StrCat("what ", options.max_running, " sequences of ", length, " tokens need");
    }
  }
  const int64_t blocks =
      std::min<int64_t>(bytes / block_bytes, std::numeric_limits<int32_t>::max());
  const int64_t room = blocks * kKvBlockSize;
  if (options.max_model_len == 0 && blocks > 0 && room < length) {
    placement->reasons.push_back(absl::StrCat("max_model_len: ", room,
                                              " instead of the checkpoint's ", length,
                                              ", since the KV cache holds no more"));
    length = room;
  }
  if (room < length) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a KV cache of ", bytes, " bytes (", why, ") holds ", room, " tokens, max_model_len is ",
        length, " and needs ", BlocksFor(length) * block_bytes,
        " bytes: raise kv-cache-memory or lower max-model-len",
        options.kv_cache_bytes == 0 ? WhatWouldFitHere(placement->ranks.front(), config, length,
                                                       memory.available - kReserveBytes)
                                    : ""));
  }
  placement->kv_bytes = blocks * block_bytes;
  placement->reasons.push_back(absl::StrCat("KV cache: ", placement->kv_bytes, " bytes, ", blocks,
                                            " blocks, ", room, " tokens (", why, ")"));
  SetLimits(options, length, blocks, placement);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Placement> ChoosePlacement(const EngineOptions& options,
                                          const Checkpoint& checkpoint, const CpuLimits& cpu,
                                          const MemoryLimits& free_memory) {
  QS_RETURN_IF_ERROR(CheckOptions(options));
  MemoryLimits memory = free_memory;
  if (options.memory_limit > 0 && options.memory_limit < memory.available) {
    memory = {options.memory_limit, "memory-limit"};
  }
  QS_RETURN_IF_ERROR(MakeShardPlan(checkpoint.config(), options.tp, 0).status());
  Placement placement;
  QS_ASSIGN_OR_RETURN(const std::string device,
                      ChooseDevice(options.device, options.tp / options.num_nodes,
                                   CountCudaDevices(), &placement.reasons));
  std::string isa = options.isa;
  if (device == "cpu") {
    QS_ASSIGN_OR_RETURN(isa, CpuIsaName(options.isa));
    placement.reasons.push_back(absl::StrCat("instruction set: ", isa));
  }
  for (int r = 0; r < options.tp; ++r) {
    RankSettings rank;
    rank.model_dir = checkpoint.dir();
    rank.load_format = options.load_format;
    rank.device = device;
    rank.isa = isa;
    rank.weights = options.weights;
    rank.tp = options.tp;
    rank.rank = r;
    rank.device_index = r % (options.tp / options.num_nodes);
    rank.gpu_mode = options.gpu_mode;
    rank.nccl_library = options.nccl_library;
    rank.kv_format = options.kv_format;
    rank.step_timeout = options.step_timeout;
    rank.wrap_backend = options.wrap_backend;
    rank.sample_pairs = options.sample_pairs;
    rank.run_ahead = options.run_ahead.value_or(device != "cpu");
    placement.ranks.push_back(std::move(rank));
  }
  SplitCores(options, cpu, &placement);
  QS_RETURN_IF_ERROR(SizeKvCache(options, checkpoint, memory, &placement));
  return placement;
}

}  // namespace qwenserve
