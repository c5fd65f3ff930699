#ifndef QWENSERVE_ENGINE_SAMPLE_SAMPLER_H_
#define QWENSERVE_ENGINE_SAMPLE_SAMPLER_H_

#include <cstdint>

#include "absl/types/span.h"
#include "engine/sample/sampling_params.h"
#include "kernels/sample_row.h"

namespace qwenserve {

// How the token after `tokens` (prompt, then answer so far) and `unknown_tokens` more, which are
// being drawn, is drawn. `end_ids`: those that would end the answer. The row's whole state comes
// from the arguments, so a sequence that is recomputed or continued elsewhere draws the same token.
// The result points into the arguments.
SampleRow MakeSampleRow(const SamplingParams& params, int32_t sample_index,
                        absl::Span<const int32_t> tokens, int64_t num_prompt_tokens,
                        absl::Span<const int32_t> end_ids, int64_t unknown_tokens = 0);

// Whether draws depend on which tokens there are, not only on how many.
bool ReadsContext(const SamplingParams& params);

// Asks for the log-probability of a token that is known, and the num_logprobs highest ones.
SampleRow MakeScoreRow(int32_t token, int32_t num_logprobs);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SAMPLE_SAMPLER_H_
