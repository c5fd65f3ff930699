#ifndef QWENSERVE_TESTS_ENGINE_LOADER_LOADED_WEIGHTS_H_
#define QWENSERVE_TESTS_ENGINE_LOADER_LOADED_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/backend.h"

namespace qwenserve {

// Row `row` of the whole tensor NAME.weight of a checkpoint, as it is to be held.
using ExpectedRow = std::function<std::vector<float>(const std::string& name, int64_t row)>;

// Row `row` of a packed matrix.
std::vector<float> LoadedRow(const LinearWeight& weight, int64_t row, Backend& backend);

// Fails the test unless every matrix of a rank's weights holds exactly the rank's rows and columns
// of what is expected, and rows of zeros below the vocabulary.
void ExpectMatrices(const ModelWeights& weights, const ModelConfig& config, const ShardPlan& shard,
                    Backend& backend, const ExpectedRow& expected);

// Bytes of all weights.
int64_t HeldBytes(const ModelWeights& weights);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_LOADER_LOADED_WEIGHTS_H_
