#ifndef QWENSERVE_ENGINE_LOADER_WEIGHT_SOURCES_H_
#define QWENSERVE_ENGINE_LOADER_WEIGHT_SOURCES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/loader/checkpoint.h"
#include "engine/loader/checkpoint_matrix.h"
#include "engine/model/weight_map.h"
#include "engine/parallel/shard_plan.h"

namespace qwenserve {

// A part of the weight map and what the checkpoint has for it: a float tensor, or a quantised
// module, which is several tensors.
struct WeightSource {
  WeightPart part;
  const TensorRef* tensor = nullptr;               // null for a quantised module
  std::shared_ptr<const CheckpointMatrix> matrix;  // null for a float tensor
  std::vector<const TensorRef*> tensors;           // all that belong to it
};

// What all parts of a rank come from, in the order of the weight map. Everything is found and
// checked before anything is packed, so that a wrong checkpoint fails at once: a tensor that is
// missing, of a wrong shape, contradicts the configuration or belongs to nothing is
// INVALID_ARGUMENT naming file, tensor and numbers.
absl::StatusOr<std::vector<WeightSource>> ResolveSources(const Checkpoint& checkpoint,
                                                         const ShardPlan& shard);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_WEIGHT_SOURCES_H_
