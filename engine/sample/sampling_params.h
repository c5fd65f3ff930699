#ifndef QWENSERVE_ENGINE_SAMPLE_SAMPLING_PARAMS_H_
#define QWENSERVE_ENGINE_SAMPLE_SAMPLING_PARAMS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace qwenserve {

// How an answer is sampled and when it ends. All fields resolved: who builds one has already put in
// the checkpoint's and the built-in defaults. Meaning of each: kernels/sample_row.h.
struct SamplingParams {
  float temperature = 1.0f;
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  int64_t max_tokens = 0;  // of the whole answer, ids of an earlier attempt included
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;  // besides the checkpoint's eos ids
};

// INVALID_ARGUMENT naming the field, its value and the range it must be in. Called at the edge and
// again at the worker.
absl::Status Validate(const SamplingParams& params);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SAMPLE_SAMPLING_PARAMS_H_
