#include "engine/model/weights.h"

namespace qwenserve {

int64_t StepWeightBytes(const ModelWeights& weights) {
  size_t bytes = weights.Head().bytes();
  for (const LayerWeights& layer : weights.layers) {
    for (const LinearWeight* weight : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down}) {
      bytes += weight->bytes();
    }
  }
  return static_cast<int64_t>(bytes);
}

int64_t WeightBytes(const ModelWeights& weights) {
  const bool separate = &weights.Head() != &weights.embedding;
  return StepWeightBytes(weights) + static_cast<int64_t>(separate ? weights.embedding.bytes() : 0);
}

std::string FormatsOf(const ModelWeights& weights) {
  const std::string layers = WeightFormatName(weights.layers.front().gate_up.format);
  const std::string head = WeightFormatName(weights.Head().format);
  return layers == head ? layers : layers + ", head " + head;
}

}  // namespace qwenserve
