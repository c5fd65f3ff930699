#ifndef QWENSERVE_KERNELS_SAMPLE_ROW_H_
#define QWENSERVE_KERNELS_SAMPLE_ROW_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace qwenserve {

// Below this temperature a draw is greedy: the division would only lose precision.
inline constexpr float kGreedyBelow = 1e-5f;

// Most alternatives that a row may ask for.
inline constexpr int32_t kMaxTopLogprobs = 20;

struct LogitBias {
  int32_t id = 0;
  float bias = 0;  // added to the logit
};

// How the next token of one sequence is drawn from its logits. Everything random is a function of
// (seed, position, sample_index), and everything else of the tokens so far, so any replica draws
// the same token. Order: bias, repetition penalty, presence and frequency penalty, banned ids and
// mask, temperature, top-k, top-p, min-p, draw (kernels/README.md, "Sample", has the exact rules).
// top-p is relative to the mass that top-k has left.
//
// Log-probabilities are those of the model itself: the logarithm of the softmax over the logits as
// they come, before everything above, as OpenAI's API and vLLM give them by default.
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
  int32_t num_logprobs = -1;                   // -1: none; N: the token's and the N highest ones
  int32_t given_id = -1;                       // >= 0: not drawn; only its log-probability counts
  absl::Span<const int32_t> context_ids = {};  // prompt and generated ids, host memory, not owned
  int64_t num_prompt_ids = 0;                  // generated ids start here in context_ids
  // Device memory: the generated id after context_ids, which the step before draws (not an id where
  // it draws none); null: context_ids has all. Only where Backend::reads_last_id.
  const int32_t* last_id = nullptr;
  absl::Span<const LogitBias> logit_bias = {};  // distinct ids; host memory, not owned
  absl::Span<const int32_t> banned_ids = {};    // never drawn; host memory, not owned
  const uint32_t* allowed_ids = nullptr;        // bitmask over the vocabulary, or null = all
};

// Whether the draw depends on context_ids.
inline bool ReadsContext(const SampleRow& row) {
  return row.given_id < 0 && (row.repetition_penalty != 1.0f || row.presence_penalty != 0.0f ||
                              row.frequency_penalty != 0.0f);
}

// Whether something changes the logits before the draw.
inline bool EditsLogits(const SampleRow& row) {
  return ReadsContext(row) ||
         (row.given_id < 0 &&
          (!row.logit_bias.empty() || !row.banned_ids.empty() || row.allowed_ids != nullptr));
}

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};

// What came of one row.
struct SampledToken {
  // -1: a NaN or +infinity among the allowed logits, or nothing finite; where log-probabilities are
  // asked for, also a NaN or +infinity anywhere.
  int32_t id = -1;
  float logprob = 0;                   // of id, when asked for; -infinity for a logit of -infinity
  std::vector<TokenLogprob> top = {};  // best first, lowest id among equals
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_SAMPLE_ROW_H_
