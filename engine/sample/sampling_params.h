#ifndef QWENSERVE_ENGINE_SAMPLE_SAMPLING_PARAMS_H_
#define QWENSERVE_ENGINE_SAMPLE_SAMPLING_PARAMS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/sample_row.h"

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
  std::vector<LogitBias> logit_bias;  // ids ascending, each once
  int64_t max_tokens = 0;             // of the whole answer, ids of an earlier attempt included
  int64_t min_tokens = 0;  // until the answer has so many, no id that would end it is drawn
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;  // besides the checkpoint's eos ids
  // -1: none; N: each token's log-probability and the N highest ones beside it.
  int32_t num_logprobs = -1;         // of the answer's tokens
  int32_t num_prompt_logprobs = -1;  // of the prompt's tokens after the first
};

inline constexpr int kMaxStopTokenIds = 64;
inline constexpr int kMaxLogitBias = 1024;
inline constexpr float kMaxBias = 100.0f;  // either sign

// INVALID_ARGUMENT naming the field, its value and the range it must be in. Called at the edge and
// again at the worker. Ids must be below vocab_size.
absl::Status Validate(const SamplingParams& params, int64_t vocab_size);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SAMPLE_SAMPLING_PARAMS_H_
