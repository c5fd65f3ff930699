#ifndef QWENSERVE_ENGINE_LOADER_DUMMY_WEIGHTS_H_
#define QWENSERVE_ENGINE_LOADER_DUMMY_WEIGHTS_H_

#include "absl/status/statusor.h"
#include "engine/loader/weight_choice.h"
#include "engine/loader/weight_loader.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/backend.h"

namespace qwenserve {

// Raised with every change to the numbers: part of the numerics fingerprint.
inline constexpr int kDummyWeightsVersion = 1;

// Weights of all the sizes and formats that LoadWeights would give for this configuration, with
// random numbers: norms near 1, biases near 0, matrices that keep the size of activations, so that
// logits are finite. The same on every machine.
//
// Rows are windows into one block of random numbers per width, so that weights of any size cost the
// host some megabytes and the time of the copy. Progress counts bytes as they will be held.
// RESOURCE_EXHAUSTED without room on the device; errors of PlanWeights.
absl::StatusOr<ModelWeights> MakeDummyWeights(const ModelConfig& config, const ShardPlan& shard,
                                              WeightChoice choice, Backend& backend,
                                              const LoadProgress& progress);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_DUMMY_WEIGHTS_H_
