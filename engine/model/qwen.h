#ifndef QWENSERVE_ENGINE_MODEL_QWEN_H_
#define QWENSERVE_ENGINE_MODEL_QWEN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/model/activations.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/backend.h"
#include "kernels/communicator.h"

namespace qwenserve {

// One step's input. Pointers are device memory of the backend.
struct ForwardBatch {
  AttentionBatch attention;
  const int32_t* ids = nullptr;         // [num_rows] input tokens
  const int32_t* logit_rows = nullptr;  // [num_logit_rows] rows whose logits are wanted
  int64_t num_logit_rows = 0;
};

// Everything a forward pass of one rank works on. Not owned.
struct ModelState {
  const ModelConfig* config = nullptr;
  const ShardPlan* shard = nullptr;
  const ModelWeights* weights = nullptr;
  Activations* activations = nullptr;
  absl::Span<const KvLayer> kv;  // one per layer
  absl::Span<const RopeTable> rope;
  Backend* backend = nullptr;
  Communicator* communicator = nullptr;
};

// The one forward pass, for every model of the family. Stores keys and values, and leaves the
// normed output of every row in activations.hidden. The error is the communicator's; device errors
// come from Backend::Sync.
absl::Status Forward(const ModelState& state, const ForwardBatch& batch);

// After Forward, as often as wanted: this rank's part of the logits of the given rows (device,
// [num_rows], at most max_logit_rows) in activations.logits.
void ProjectLogits(const ModelState& state, const int32_t* rows, int64_t num_rows);

// Collects the logits of rows first .. first + count - 1 of the last ProjectLogits from all ranks,
// so that they become rows to .. to + count - 1 of LogitsOf. At tp = 1 there is nothing to do:
// LogitsOf is the result of ProjectLogits itself.
absl::Status GatherLogits(const ModelState& state, int64_t first, int64_t count, int64_t to);

// Where the logits of the whole vocabulary are: [*, stride] float on the device.
struct LogitsView {
  float* data = nullptr;
  int64_t stride = 0;
};
LogitsView LogitsOf(const ModelState& state);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_QWEN_H_
