#ifndef QWENSERVE_KERNELS_SAMPLE_ROW_H_
#define QWENSERVE_KERNELS_SAMPLE_ROW_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace qwenserve {

// Below this temperature a draw is greedy: the division would only lose precision.
inline constexpr float kGreedyBelow = 1e-5f;

// How the next token of one sequence is drawn from its logits. Everything random is a function of
// (seed, position, sample_index), and everything else of the tokens so far, so any replica draws
// the same token. Order: repetition penalty, presence and frequency penalty, temperature, top-k,
// top-p, min-p, draw (kernels/README.md, "Sample", has the exact rules). top-p is relative to the
// mass that top-k has left.
struct SampleRow {
  float temperature = 1.0f;         // < kGreedyBelow: the highest logit, lowest id among equals
  int32_t top_k = 0;                // 0 = off
  float top_p = 1.0f;               // smallest set of most probable ids that reaches this mass
  float min_p = 0.0f;               // drops ids below min_p times the highest probability
  float repetition_penalty = 1.0f;  // divides positive, multiplies negative logits of context ids
  float presence_penalty = 0.0f;    // subtracted once from the logits of generated ids
  float frequency_penalty = 0.0f;   // subtracted once per occurrence in the generated ids
  uint64_t seed = 0;
  int64_t position = 0;                        // absolute position of the token being drawn
  int32_t sample_index = 0;                    // which of n answers to one request
  absl::Span<const int32_t> context_ids = {};  // prompt and generated ids, host memory, not owned
  int64_t num_prompt_ids = 0;                  // generated ids start here in context_ids
  const uint32_t* allowed_ids = nullptr;       // bitmask over the vocabulary, or null = all
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};

// What came of one row.
struct SampledToken {
  int32_t id = -1;                     // -1: the row had a NaN, +infinity, or nothing finite
  float logprob = 0;                   // of id, when the row asks for it
  std::vector<TokenLogprob> top = {};  // the most probable ids, best first, when asked for
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_SAMPLE_ROW_H_
