#ifndef QWENSERVE_ENGINE_MODEL_WEIGHTS_H_
#define QWENSERVE_ENGINE_MODEL_WEIGHTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// One rank's weights on its device. H = hidden size, F = this rank's FFN columns, Q and KV = this
// rank's query and KV widths (heads * head_dim), V = ShardPlan::max_vocab_rows.
// Vectors are float whatever the checkpoint held; matrices keep the checkpoint's format.
struct LayerWeights {
  Buffer input_norm;      // [H]
  LinearWeight qkv;       // [Q + 2 KV, H] = queries, keys, values
  Buffer qkv_bias;        // [Q + 2 KV] or empty
  Buffer q_norm;          // [head_dim] or empty
  Buffer k_norm;          // [head_dim] or empty
  LinearWeight attn_out;  // [H, Q]
  Buffer post_attn_norm;  // [H]
  LinearWeight gate_up;   // [2 F, H] = gate, up
  LinearWeight down;      // [H, F]
};

struct ModelWeights {
  LinearWeight embedding;  // [V, H]
  LinearWeight head;       // [V, H]; no data when tied: use Head()
  Buffer final_norm;       // [H]
  std::vector<LayerWeights> layers;
  std::vector<std::string> notes;  // what is unusual about how they are held, for the log

  const LinearWeight& Head() const { return head.data.empty() ? embedding : head; }
  // The norm that follows layer i: the next layer's first, or the final one.
  const Buffer& NormAfter(size_t i) const {
    return i + 1 < layers.size() ? layers[i + 1].input_norm : final_norm;
  }
};

// Bytes of all matrices, and of those that every step reads whole: the linears and the head.
int64_t WeightBytes(const ModelWeights& weights);
int64_t StepWeightBytes(const ModelWeights& weights);

// For people: "int4, head int8", or one name where both are alike.
std::string FormatsOf(const ModelWeights& weights);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_WEIGHTS_H_
