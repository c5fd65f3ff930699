#ifndef QWENSERVE_ENGINE_MODEL_ROPE_H_
#define QWENSERVE_ENGINE_MODEL_ROPE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "kernels/attention_batch.h"
#include "kernels/backend.h"

namespace qwenserve {

// Dynamic NTK's alpha for a prompt of this many tokens: max(2^ceil(log2(n / train) + 1) - 1, 1).
// Fixed for the whole sequence. Always 1 without NTK.
int64_t NtkAlpha(const ModelConfig& config, int64_t prompt_tokens);

// Factor on the query at a 0-based position: max(1, log_train(position + 1)). 1 without logn.
float LognScale(const ModelConfig& config, int64_t position);

// Inverse frequencies [head_dim / 2] with NTK alpha and YaRN applied, in double.
std::vector<double> InverseFrequencies(const ModelConfig& config, int64_t alpha);

// One rank's rope tables, made when first asked for: one per NTK alpha.
class RopeTables {
 public:
  RopeTables(const ModelConfig& config, int64_t max_positions, Backend* backend);

  // Index into tables() of the table for prompts of this length.
  absl::StatusOr<int32_t> IndexFor(int64_t prompt_tokens);
  const std::vector<RopeTable>& tables() const { return tables_; }

 private:
  ModelConfig config_;
  int64_t max_positions_;
  Backend* backend_;
  std::vector<int64_t> alphas_;
  std::vector<Buffer> buffers_;
  std::vector<RopeTable> tables_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_ROPE_H_
