#ifndef QWENSERVE_ENGINE_LOADER_PLANNED_WEIGHTS_H_
#define QWENSERVE_ENGINE_LOADER_PLANNED_WEIGHTS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loader/weight_choice.h"
#include "engine/model/model_config.h"
#include "engine/model/weight_map.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/device_memory.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// One field of a rank's weights as LoadWeights will hold it, known from config.json alone.
struct PlannedField {
  WeightField field = WeightField::kEmbedding;
  int64_t layer = -1;
  int64_t out_features = 0;  // a vector's length
  int64_t in_features = 1;
  DType dtype = DType::kF32;                // of a vector, and of a matrix that is not quantised
  std::optional<QuantizedShape> quantized;  // whose input_order has the right size, but no contents
};

// In the order of the weight map. INVALID_ARGUMENT for a choice that does not fit a checkpoint
// which is quantised already.
//
// Not in config.json, and taken to be the usual: that a GPTQ checkpoint whose description does not
// say "sym" has zero points; that all layers of a quantised checkpoint are quantised, and its
// embedding and head are not; that of an act-order checkpoint whose inputs are cut over ranks each
// group is spread evenly.
absl::StatusOr<std::vector<PlannedField>> PlanWeights(const ModelConfig& config,
                                                      const ShardPlan& shard, WeightChoice choice);

// INVALID_ARGUMENT where a checkpoint is quantised already and `choice` asks for another width.
// `source`: for the message.
absl::Status CheckWeightChoice(const ModelConfig& config, WeightChoice choice,
                               const std::string& source);

// Of a matrix.
PackedShape PackedShapeOf(const PlannedField& field);

// Of device memory.
int64_t PlannedBytes(const PlannedField& field, DeviceKind kind);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_PLANNED_WEIGHTS_H_
