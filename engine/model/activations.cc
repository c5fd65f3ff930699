#include "engine/model/activations.h"

#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace qwenserve {

absl::StatusOr<Activations> MakeActivations(const ModelConfig& config, const ShardPlan& shard,
                                            int64_t max_rows, int64_t max_logit_rows,
                                            Backend& backend) {
  QS_CHECK(max_rows > 0 && max_logit_rows > 0);
  const HeadLayout heads = shard.Heads(config);
  Activations activations;
  activations.max_rows = max_rows;
  activations.max_logit_rows = max_logit_rows;
  const DType fed = backend.activation_type();
  const struct {
    Buffer* buffer;
    int64_t rows;
    int64_t width;
    DType dtype = DType::kF32;
  } kBuffers[] = {
      {&activations.residual, max_rows, config.hidden_size},
      {&activations.partial, max_rows, config.hidden_size},
      {&activations.hidden, max_rows, config.hidden_size, fed},
      {&activations.qkv, max_rows, heads.qkv_width()},
      {&activations.attn, max_rows, heads.query_width(), fed},
      {&activations.gate_up, max_rows, 2 * shard.ffn.size()},
      {&activations.mlp, max_rows, shard.ffn.size(), fed},
      {&activations.logit_hidden, max_logit_rows, config.hidden_size, fed},
      {&activations.logits, max_logit_rows, shard.max_vocab_rows},
      {&activations.gathered, shard.tp > 1 ? max_logit_rows : 0, shard.tp * shard.max_vocab_rows},
  };
  for (const auto& entry : kBuffers) {
    if (entry.rows == 0) continue;
    size_t bytes = DTypeBytes(entry.dtype);
    QS_CHECK(!__builtin_mul_overflow(bytes, static_cast<size_t>(entry.rows), &bytes));
    QS_CHECK(!__builtin_mul_overflow(bytes, static_cast<size_t>(entry.width), &bytes));
    QS_ASSIGN_OR_RETURN(*entry.buffer, backend.Allocate(bytes));
  }
  return activations;
}

}  // namespace qwenserve
