#ifndef QWENSERVE_ENGINE_RUNTIME_RANK_SETTINGS_H_
#define QWENSERVE_ENGINE_RUNTIME_RANK_SETTINGS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/loader/load_format.h"
#include "engine/loader/weight_choice.h"
#include "engine/schedule/batch_builder.h"
#include "kernels/backend.h"
#include "kernels/kv_format.h"

namespace qwenserve {

// More pairs than this cost more than the row.
inline constexpr int64_t kMaxSamplePairs = 4096;

// How a rank sizes its KV cache where that is left to the memory of its device
// (BatchLimits::num_blocks is 0).
struct KvSizing {
  double memory_fraction = 0.92;  // EngineOptions::gpu_memory_fraction
  int64_t most_blocks = 0;        // more are of no use
  // Without room for limits.max_model_len: take what there is, and serve shorter sequences.
  bool may_shorten = false;
};

// Everything that one rank must know to do its part; decided by rank 0 for all. Nothing is left to
// choose, so that ranks can't choose differently.
struct RankSettings {
  std::string model_dir;
  LoadFormat load_format = LoadFormat::kAuto;
  std::string device = "cpu";  // cpu or cuda
  int tp = 1;
  int rank = 0;
  int device_index = 0;            // which of the node's GPUs
  std::string gpu_mode = "exact";  // exact or fast
  std::string nccl_library;        // see DeviceGroup::library
  std::string isa = "auto";
  WeightChoice weights = WeightChoice::kAuto;
  int num_threads = 1;
  std::vector<int> cpus;  // to pin the threads to; empty = not pinned
  KvFormat kv_format = KvFormat::kBf16;
  BatchLimits limits;
  KvSizing kv_sizing;
  bool run_ahead = false;     // a plan may come while the step before is under way
  int64_t sample_pairs = 64;  // see RowSampler; the same in all ranks
  absl::Duration step_timeout = absl::Seconds(120);
  // Not for ranks in other processes; see EngineOptions.
  std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)> wrap_backend = nullptr;
};

// As one JSON object: the command line of a follower process, or for another node.
std::string SettingsToJson(const RankSettings& settings);
absl::StatusOr<RankSettings> SettingsFromJson(absl::string_view json);

// The rank's device. UNIMPLEMENTED or INVALID_ARGUMENT as the backend's own maker says.
absl::StatusOr<std::unique_ptr<Backend>> MakeRankBackend(const RankSettings& settings);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_RANK_SETTINGS_H_
