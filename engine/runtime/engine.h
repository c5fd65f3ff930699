#ifndef QWENSERVE_ENGINE_RUNTIME_ENGINE_H_
#define QWENSERVE_ENGINE_RUNTIME_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/loader/weight_loader.h"
#include "engine/model/model_config.h"
#include "engine/parallel/rank_group.h"
#include "engine/runtime/engine_options.h"
#include "engine/schedule/request.h"
#include "engine/schedule/scheduler_counters.h"

namespace qwenserve {

// A snapshot for health, heartbeats and metrics.
struct EngineStats {
  uint64_t step = 0;  // steps finished
  // Since a step is under way that could have begun, or, while sequences run, since the last one
  // ended; else 0.
  absl::Duration step_age;
  int64_t running = 0;        // sequences in the batch
  int64_t waiting = 0;        // accepted, not in the batch: not started, without credit, preempted
  int64_t queued_tokens = 0;  // prompt tokens still to be computed, of all sequences
  int64_t free_blocks = 0;
  int64_t total_blocks = 0;
  int64_t cached_blocks = 0;   // whose contents the prefix cache can offer, in use or free
  SchedulerCounters counters;  // since start
  // Rows sampled since the start where the vocabulary is cut over ranks (RowSampler).
  uint64_t rows_from_pairs = 0;
  uint64_t rows_gathered = 0;
  // What the step under way should take by what was measured, or the longest step so far where
  // nothing like it was: tells a slow step from a stalled one.
  absl::Duration expected_step;
  std::vector<RankProgress> ranks;  // of the tensor-parallel group
};

// What clients and gateways need to know about a loaded replica.
struct EngineInfo {
  ModelConfig config;
  GenerationDefaults defaults;
  // Hex, after "dummy-" where the weights are random; equal ones promise equal tokens. Empty: the
  // KV format or the device allows no such promise.
  std::string fingerprint;
  int64_t max_model_len = 0;
  int64_t max_batch_tokens = 0;  // rows of one step
  int64_t max_running = 0;
  int64_t max_waiting = 0;
  int64_t kv_block_size = 0;
  int tp = 1;
  std::string device;         // "cpu", or "cuda" with Backend::description behind it
  std::string isa;            // instruction set of the CPU; empty on a GPU
  std::string weight_format;  // of the layers, and of the head where that is another
  std::string kv_format;
  int num_threads = 0;             // of all ranks
  int64_t weight_bytes = 0;        // of rank 0's matrices
  int64_t step_weight_bytes = 0;   // of those, what every step reads
  int64_t kv_bytes_per_token = 0;  // of all ranks and layers
};

// One replica of one model: a thread that schedules and runs one step after the other, or one ahead
// of the other (EngineOptions::run_ahead), and one that reports what a step produced while the next
// one runs. The methods may be called from any thread.
class Engine {
 public:
  // Called after each step, and for what ends between steps, in order, by one thread of the engine
  // and without a lock of the engine held. A call that takes longer than some steps holds them up.
  // It may call the engine, even while the destructor waits for the last call, but not destroy it.
  using StepCallback = std::function<void(const StepEvents&)>;

  // Loads the model and runs one forward pass, so a returned engine works. `progress` may be null.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        StepCallback on_step,
                                                        const LoadProgress& progress);
  virtual ~Engine() = default;

  // Takes a sequence in and returns its handle; events follow. INVALID_ARGUMENT naming the field,
  // RESOURCE_EXHAUSTED when max_waiting are waiting, UNAVAILABLE after a failure.
  // Credit of 0 pauses the sequence before its first token. Does not wait for the engine's thread.
  virtual absl::StatusOr<uint64_t> Submit(SequenceRequest request) = 0;

  // Ends a sequence within two steps; its kCancelled event follows unless it ended before.
  // Unknown handles are ignored.
  virtual void Cancel(uint64_t sequence) = 0;

  // Lets a sequence produce `tokens` more.
  virtual void AddCredit(uint64_t sequence, int64_t tokens) = 0;

  virtual EngineStats Stats() const = 0;
  virtual const EngineInfo& info() const = 0;

  // OK while steps can run; the reason when a rank died or a device failed. Never OK again.
  virtual absl::Status Health() const = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_ENGINE_H_
