#ifndef QWENSERVE_ENGINE_LOADER_WEIGHT_LOADER_H_
#define QWENSERVE_ENGINE_LOADER_WEIGHT_LOADER_H_

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "engine/loader/checkpoint.h"
#include "engine/loader/weight_choice.h"
#include "engine/model/weights.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/backend.h"

namespace qwenserve {

// Called with bytes of source tensors done and in total, ascending, from the loading thread; while
// a large matrix is rounded or unpacked, several times.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

// Loads this rank's share of a checkpoint onto its backend, in the formats that `choice` asks for.
// Walks the weight map, so a tensor that is missing, of a wrong shape or not expected is
// INVALID_ARGUMENT naming file, tensor and both shapes; so are weights that cannot be rounded (not
// finite, or too large) and, for bf16, matrices of another type. Pages of the source are given back
// as soon as their tensor is packed; nothing is copied on the way.
absl::StatusOr<ModelWeights> LoadWeights(const Checkpoint& checkpoint, const ShardPlan& shard,
                                         WeightChoice choice, Backend& backend,
                                         const LoadProgress& progress);

// Bytes that LoadWeights will hold at most, but for alignment; without reading weights. Errors as
// of LoadWeights, as far as headers tell.
absl::StatusOr<int64_t> LoadedBytes(const Checkpoint& checkpoint, const ShardPlan& shard,
                                    WeightChoice choice);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_WEIGHT_LOADER_H_
