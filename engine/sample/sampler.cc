#include "engine/sample/sampler.h"

namespace qwenserve {

SampleRow MakeSampleRow(const SamplingParams& params, int32_t sample_index,
                        absl::Span<const int32_t> tokens, int64_t num_prompt_tokens,
                        absl::Span<const int32_t> end_ids, int64_t unknown_tokens) {
  SampleRow row;
  row.temperature = params.temperature;
  row.top_k = params.top_k;
  row.top_p = params.top_p;
  row.min_p = params.min_p;
  row.repetition_penalty = params.repetition_penalty;
  row.presence_penalty = params.presence_penalty;
  row.frequency_penalty = params.frequency_penalty;
  row.seed = params.seed;
  row.position = static_cast<int64_t>(tokens.size()) + unknown_tokens;
  row.sample_index = sample_index;
  row.context_ids = tokens;
  row.num_prompt_ids = num_prompt_tokens;
  row.num_logprobs = params.num_logprobs;
  row.logit_bias = params.logit_bias;
  if (row.position - num_prompt_tokens < params.min_tokens) row.banned_ids = end_ids;
  return row;
}

bool ReadsContext(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

SampleRow MakeScoreRow(int32_t token, int32_t num_logprobs) {
  SampleRow row;
  row.given_id = token;
  row.num_logprobs = num_logprobs;
  return row;
}

}  // namespace qwenserve
