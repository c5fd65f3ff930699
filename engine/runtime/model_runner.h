#ifndef QWENSERVE_ENGINE_RUNTIME_MODEL_RUNNER_H_
#define QWENSERVE_ENGINE_RUNTIME_MODEL_RUNNER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cache/kv_cache.h"
#include "engine/loader/checkpoint.h"
#include "engine/loader/weight_loader.h"
#include "engine/model/activations.h"
#include "engine/model/qwen.h"
#include "engine/model/rope.h"
#include "engine/parallel/shard_plan.h"
#include "engine/runtime/rank_settings.h"
#include "engine/runtime/row_sampler.h"
#include "engine/schedule/batch_builder.h"
#include "engine/schedule/step_plan.h"
#include "kernels/communicator.h"

namespace qwenserve {

// One rank: its device, its share of the weights, its KV cache, and the running of steps. All ranks
// launch the same plans in the same order; rank 0 also draws the tokens.
//
// Two-phase: Launch issues a step, Collect waits for it, and up to two steps may be launched before
// the first is collected; the second may then name ids that the first has yet to draw: they stay on
// the device. On the CPU the work itself happens in Launch.
//
// A step in which every sequence draws from its one row is filled up to the backend's PaddedRows
// and goes through Backend::Replay, from the embedding to the logits: its shape is all that differs
// from one such step to the next.
// One thread, but for abort through the communicator.
class ModelRunner {
 public:
  // Makes the rank's communicator; called when all memory is taken, since collectives of a device
  // that still allocates could wait for each other.
  using Meet = std::function<absl::StatusOr<std::unique_ptr<Communicator>>(Backend&)>;

  // Loads weights and takes all memory. `checkpoint` must outlive the runner.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Create(const RankSettings& settings,
                                                             const Checkpoint& checkpoint,
                                                             const Meet& meet,
                                                             const LoadProgress& progress);

  ~ModelRunner();

  // A ticket for Collect. UNAVAILABLE when a peer is gone; the runner is then of no more use.
  absl::StatusOr<uint64_t> Launch(const StepPlan& plan);

  // What became of that step's rows: of each sequence, in the plan's order, the scored tokens, then
  // the drawn one; empty on ranks other than 0. Tickets are collected in order.
  absl::StatusOr<std::vector<SampledToken>> Collect(uint64_t ticket);

  const RowSampler& sampler() const { return sampler_; }
  const Backend& backend() const { return *backend_; }
  Communicator& communicator() { return *communicator_; }

  // Formats of the weights and the kernels that work on them: the rank's part of the fingerprint.
  std::string weight_numerics() const;
  // Backend::invariant.
  bool invariant() const { return backend_->invariant(); }
  const ModelWeights& weights() const { return weights_; }
  // Backend::description.
  std::string device_description() const { return backend_->description(); }
  // As in the settings, but for what was left to the device's memory (KvSizing).
  const BatchLimits& limits() const { return limits_; }

 private:
  struct InFlight {
    uint64_t ticket = 0;
    uint64_t mark = 0;
    std::vector<SampledToken> tokens;
  };

  ModelRunner(const RankSettings& settings, const Checkpoint& checkpoint);
  absl::Status TakeMemory(const LoadProgress& progress);
  absl::Status TakeKvCache();
  // What the step before drew, on every rank: rank 0 has it.
  absl::StatusOr<const int32_t*> SharePreviousDraws();
  // Rows of logits of this step, and whose ids they may take from the step before.
  std::vector<LogitRow> RowsOf(const StepPlan& plan) const;
  // The forward pass and the draws.
  absl::Status Compute(const ForwardBatch& batch, absl::Span<const LogitRow> rows,
                       SampledToken* tokens);
  ModelState State();
  int32_t* drawn(uint64_t ticket) const { return drawn_[ticket % 2].as<int32_t>(); }

  const RankSettings settings_;
  const Checkpoint& checkpoint_;
  BatchLimits limits_;
  // In this order, since everything below must go before the backend.
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Communicator> communicator_;
  ShardPlan shard_;
  ModelWeights weights_;
  KvCache kv_;
  Activations activations_;
  DeviceBatch device_batch_;
  RowSampler sampler_;
  std::optional<RopeTables> rope_;
  // [max_rows]: the ids of each logit row of this step and of the one before, since a row's draw
  // may read one of those while another's is stored.
  Buffer drawn_[2];
  Buffer gathered_ids_;  // [tp * max_rows]
  HostBatch host_batch_;
  std::deque<InFlight> in_flight_;       // stable addresses: Sample writes there
  std::vector<int32_t> previous_draws_;  // which logit rows of the last launched step were drawn
  int64_t previous_rows_ = 0;            // how many it had
  uint64_t last_ticket_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_MODEL_RUNNER_H_
