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

// Values of all tables and scales at some positions, as this machine computes them. The C library's
// sin, cos, pow and log may differ in the last bit from one version or processor to another; equal
// values tell that two machines rotate alike.
std::vector<float> SampleRopeValues(const ModelConfig& config);

// One rank's rope tables: one for each NTK alpha that a prompt of at most max_positions can have,
// all made at the start, so that no request can make a step fail or wait for one. Immutable. Must
// not outlive the backend.
class RopeTables {
 public:
  // RESOURCE_EXHAUSTED as the backend says.
  static absl::StatusOr<RopeTables> Create(const ModelConfig& config, int64_t max_positions,
                                           Backend& backend);

  // Of device memory that Create takes.
  static int64_t Bytes(const ModelConfig& config, int64_t max_positions);

  // Index into tables() of the table for prompts of this length, 1 .. max_positions.
  int32_t IndexFor(int64_t prompt_tokens) const;
  const std::vector<RopeTable>& tables() const { return tables_; }

 private:
  RopeTables(const ModelConfig& config, int64_t max_positions)
      : config_(config), max_positions_(max_positions) {}
  absl::Status Add(int64_t alpha, Backend& backend);

  ModelConfig config_;
  int64_t max_positions_;
  std::vector<int64_t> alphas_;
  std::vector<Buffer> buffers_;
  std::vector<RopeTable> tables_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_ROPE_H_
