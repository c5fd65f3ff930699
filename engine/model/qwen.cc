#include "engine/model/qwen.h"

#include "engine/base/status_macros.h"
#include "engine/model/layers.h"
#include "kernels/check.h"

namespace qwenserve {

absl::Status Forward(const ModelState& state, const ForwardBatch& batch) {
  const ModelConfig& config = *state.config;
  const ModelWeights& weights = *state.weights;
  const AttentionBatch& attention = batch.attention;
  const int64_t rows = attention.num_rows;
  Activations& acts = *state.activations;
  Backend& be = *state.backend;
  QS_CHECK(rows > 0 && rows <= acts.max_rows);
  QS_CHECK(state.kv.size() == weights.layers.size());

  const HeadLayout heads = state.shard->Heads(config);
  const float epsilon = config.norm_epsilon;
  void* hidden = acts.hidden.data();
  void* attn = acts.attn.data();
  void* mlp = acts.mlp.data();
  float* qkv = acts.qkv.as<float>();
  float* partial = acts.partial.as<float>();

  QS_RETURN_IF_ERROR(EmbedTokens(state, batch));
  be.RmsNorm(acts.residual.as<float>(), rows, config.hidden_size,
             weights.layers.front().input_norm.as<float>(), epsilon, hidden);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    be.Linear(hidden, rows, layer.qkv, layer.qkv_bias.as<float>(), qkv);
    be.NormRopeStoreKv(attention, heads, layer.q_norm.as<float>(), layer.k_norm.as<float>(),
                       epsilon, state.rope, qkv, state.kv[i]);
    be.PagedAttention(attention, heads, qkv, state.kv[i], attn);
    be.Linear(attn, rows, layer.attn_out, nullptr, partial);
    QS_RETURN_IF_ERROR(ReduceAddNorm(state, rows, layer.post_attn_norm));

    be.LinearSwiGlu(hidden, rows, layer.gate_up, acts.gate_up.as<float>(), mlp);
    be.Linear(mlp, rows, layer.down, nullptr, partial);
    QS_RETURN_IF_ERROR(ReduceAddNorm(state, rows, weights.NormAfter(i)));
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
