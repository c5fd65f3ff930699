#ifndef QWENSERVE_ENGINE_RUNTIME_ENGINE_OPTIONS_H_
#define QWENSERVE_ENGINE_RUNTIME_ENGINE_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/loader/load_format.h"
#include "engine/loader/weight_choice.h"
#include "engine/parallel/node_channel.h"
#include "kernels/kv_format.h"

namespace qwenserve {

class Backend;

enum class RankMode { kThreads, kProcesses };

// EngineOptions::max_batch_tokens where nothing is told.
inline constexpr int64_t kCpuBatchTokens = 512, kGpuBatchTokens = 2048;

// One replica. Zero means "choose": the choice is logged at start.
struct EngineOptions {
  std::string model_dir;
  std::string device = "auto";  // auto, cpu or cuda
  // On a GPU: exact, or fast: products of many rows by cuBLASLt, chosen by time, so the same tokens
  // are not promised.
  std::string gpu_mode = "exact";
  // CPU instruction set: auto, or a name that CpuIsaName knows.
  std::string isa = "auto";
  // dummy: model_dir needs no more than config.json.
  LoadFormat load_format = LoadFormat::kAuto;
  // auto = as the checkpoint holds them; int8, int4: quantised while loading.
  WeightChoice weights = WeightChoice::kAuto;
  int tp = 1;
  // With several GPUs: file of NCCL, or the folder that it is in; empty = as installed.
  std::string nccl_library;
  RankMode rank_mode = RankMode::kThreads;
  std::string rank_binary;  // with kProcesses: the program to start further ranks with
  // With several nodes this one is the leader's, and each has tp / num_nodes ranks. `join_nodes`
  // returns the ways to the others, in order, when all are there and wait in FollowNode.
  int num_nodes = 1;
  std::function<absl::StatusOr<std::vector<std::shared_ptr<NodeChannel>>>()> join_nodes = nullptr;
  int num_threads = 0;         // of all ranks together; 0 = cgroup quota and affinity
  int64_t max_model_len = 0;   // 0 = the checkpoint's
  int64_t kv_cache_bytes = 0;  // of all ranks together; 0 = from the memory limit
  int64_t memory_limit = 0;    // plan with at most so many bytes of the host; 0 = all that are free
  // Of a GPU's memory that a rank may use; what its weights and buffers leave of that is its KV
  // cache. The rest is for the driver and what its libraries take later.
  double gpu_memory_fraction = 0.92;
  KvFormat kv_format = KvFormat::kBf16;
  // Rows of one step: bounds how long a prefill delays decode. 0 = 512 on the CPU; 2048 on a GPU,
  // which needs more of them to be busy.
  int64_t max_batch_tokens = 0;
  // How long a step may take when prefills share it with decoding sequences; 0 = twice as long as
  // the decoding ones take alone, as measured.
  absl::Duration max_step;
  bool prefix_cache = true;    // keep and reuse the keys and values of what was computed before
  int64_t max_running = 64;    // sequences in one step
  int64_t max_waiting = 1024;  // sequences beyond that are refused
  // Highest logits that each of several ranks sends per row to draw from; 0 = whole rows always.
  int64_t sample_pairs = 64;
  // Plan and launch a step while the one before runs. Unset: where the device works by itself, so
  // not on the CPU. Changes no token.
  std::optional<bool> run_ahead = std::nullopt;
  absl::Duration step_timeout = absl::Seconds(120);  // a rank that takes longer fails the group
  // What stands between model and device; null = nothing. For benchmarks and tests: ranks in other
  // processes do without.
  std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)> wrap_backend = nullptr;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_ENGINE_OPTIONS_H_
