#include "engine/loader/weight_fields.h"

#include "kernels/check.h"

namespace qwenserve {

Buffer& VectorOf(ModelWeights& weights, WeightField field, int64_t layer_number) {
  if (field == WeightField::kFinalNorm) return weights.final_norm;
  LayerWeights& layer = weights.layers[static_cast<size_t>(layer_number)];
  switch (field) {
    case WeightField::kInputNorm:
      return layer.input_norm;
    case WeightField::kQkvBias:
      return layer.qkv_bias;
    case WeightField::kQNorm:
      return layer.q_norm;
    case WeightField::kKNorm:
      return layer.k_norm;
    default:
      QS_CHECK(field == WeightField::kPostAttnNorm);
      return layer.post_attn_norm;
  }
}

LinearWeight& MatrixOf(ModelWeights& weights, WeightField field, int64_t layer_number) {
  if (field == WeightField::kEmbedding) return weights.embedding;
  if (field == WeightField::kHead) return weights.head;
  LayerWeights& layer = weights.layers[static_cast<size_t>(layer_number)];
  switch (field) {
    case WeightField::kQkv:
      return layer.qkv;
    case WeightField::kAttnOut:
      return layer.attn_out;
    case WeightField::kGateUp:
      return layer.gate_up;
    default:
      QS_CHECK(field == WeightField::kDown);
      return layer.down;
  }
}

}  // namespace qwenserve
