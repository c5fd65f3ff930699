#ifndef QWENSERVE_ENGINE_LOADER_WEIGHT_FIELDS_H_
#define QWENSERVE_ENGINE_LOADER_WEIGHT_FIELDS_H_

#include <cstdint>

#include "engine/model/weight_map.h"
#include "engine/model/weights.h"

namespace qwenserve {

// Where a field of the weight map is kept. layer: -1 for what is not of a layer.
Buffer& VectorOf(ModelWeights& weights, WeightField field, int64_t layer);
LinearWeight& MatrixOf(ModelWeights& weights, WeightField field, int64_t layer);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_WEIGHT_FIELDS_H_
