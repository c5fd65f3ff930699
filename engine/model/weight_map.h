#ifndef QWENSERVE_ENGINE_MODEL_WEIGHT_MAP_H_
#define QWENSERVE_ENGINE_MODEL_WEIGHT_MAP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/model/model_config.h"
#include "engine/parallel/shard_plan.h"

namespace qwenserve {

// The fields of ModelWeights and LayerWeights.
enum class WeightField {
  kEmbedding,
  kHead,
  kFinalNorm,
  kInputNorm,
  kQkv,
  kQkvBias,
  kQNorm,
  kKNorm,
  kAttnOut,
  kPostAttnNorm,
  kGateUp,
  kDown,
};

// Whether a field is a float vector; the others are matrices.
bool IsVector(WeightField field);

// One tensor's contribution to one field on one rank: the rows and columns that the rank takes.
// A vector has one column and a shape of one number.
struct WeightPart {
  WeightField field = WeightField::kEmbedding;
  int64_t layer = -1;  // -1: not of a layer
  std::string tensor;
  std::vector<int64_t> shape;  // the whole tensor's, as the checkpoint must have it
  Range rows;                  // of the whole tensor
  Range columns;
};

// All parts of one rank's weights. The parts of a field follow each other, in the order in which
// their rows are stacked. Which tensor feeds which field, and which axis is cut by what, is data:
// the tables in weight_map.cc.
std::vector<WeightPart> WeightParts(const ModelConfig& config, const ShardPlan& shard);

// Tensors that checkpoints carry although they hold no weights: rotary tables and causal masks.
bool IsIgnoredTensor(absl::string_view name);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_WEIGHT_MAP_H_
