#ifndef QWENSERVE_ENGINE_MODEL_QWEN_H_
#define QWENSERVE_ENGINE_MODEL_QWEN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/model/activations.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "engine/parallel/communicator.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/backend.h"

namespace qwenserve {

// One step's input. Pointers are device memory of the backend.
struct ForwardBatch {
  AttentionBatch attention;
  const int32_t* ids = nullptr;         // [num_rows] input tokens
  const int32_t* logit_rows = nullptr;  // [num_logit_rows] rows whose next token is wanted
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
// logits of the wanted rows in activations.logits (tp = 1) or activations.gathered. Read them with
// LogitsOf. The error is the communicator's; device errors come from Backend::Sync.
absl::Status Forward(const ModelState& state, const ForwardBatch& batch);

// Where the whole vocabulary's logits of the last Forward are: [num_logit_rows, stride] float on
// the device, valid until the next Forward.
struct LogitsView {
  float* data = nullptr;
  int64_t stride = 0;
};
LogitsView LogitsOf(const ModelState& state, const ForwardBatch& batch);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_QWEN_H_
