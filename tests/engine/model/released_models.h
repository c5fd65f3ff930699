#ifndef QWENSERVE_TESTS_ENGINE_MODEL_RELEASED_MODELS_H_
#define QWENSERVE_TESTS_ENGINE_MODEL_RELEASED_MODELS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/model_config.h"

namespace qwenserve {

// One released size and what its config.json must be read as.
struct ReleasedModel {
  std::string name;
  std::string config_json;
  CheckpointStyle style;
  int64_t hidden, layers, query_heads, kv_heads, head_dim, ffn, vocab, max_positions;
  double rope_base;
  float epsilon;
  bool tied;
  int64_t ntk, logn;  // training length, 0 = off
};

// Every dense size of Qwen1, 1.5, 2, 2.5 and 3, with config.json written as that family writes it.
std::vector<ReleasedModel> ReleasedModels();

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_MODEL_RELEASED_MODELS_H_
