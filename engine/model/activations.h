#ifndef QWENSERVE_ENGINE_MODEL_ACTIVATIONS_H_
#define QWENSERVE_ENGINE_MODEL_ACTIVATIONS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/backend.h"

namespace qwenserve {

// The buffers of one step on one rank, allocated once for the largest step. R = max_rows,
// S = max_logit_rows; widths as in weights.h. Float, where nothing else is said.
struct Activations {
  Buffer residual;      // [R, H]
  Buffer partial;       // [R, H] this rank's part of a projection, then the sum over ranks
  Buffer hidden;        // [R, H] activation_type
  Buffer qkv;           // [R, Q + 2 KV]
  Buffer attn;          // [R, Q] activation_type
  Buffer gate_up;       // [R, 2 F]
  Buffer mlp;           // [R, F] activation_type
  Buffer logit_hidden;  // [S, H] activation_type
  Buffer logits;        // [S, max_vocab_rows]: this rank's part of the vocabulary
  Buffer gathered;      // [S, tp * max_vocab_rows], empty when tp is 1
  int64_t max_rows = 0;
  int64_t max_logit_rows = 0;
};

absl::StatusOr<Activations> MakeActivations(const ModelConfig& config, const ShardPlan& shard,
                                            int64_t max_rows, int64_t max_logit_rows,
                                            Backend& backend);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_ACTIVATIONS_H_
