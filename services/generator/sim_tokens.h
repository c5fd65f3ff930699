#ifndef QWENSERVE_SERVICES_GENERATOR_SIM_TOKENS_H_
#define QWENSERVE_SERVICES_GENERATOR_SIM_TOKENS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/tokenizer/tokenizer.h"
#include "kernels/sample_row.h"

namespace qwenserve {

// The ids that a simulated model answers with.
struct SimVocabulary {
  std::vector<int32_t> words;  // a space and lower-case letters: ordinary words
  int32_t eos_id = -1;
};

// INVALID_ARGUMENT when the tokenizer has too few words below `vocab_size` to answer with.
absl::StatusOr<SimVocabulary> MakeSimVocabulary(const Tokenizer& tokenizer, int64_t vocab_size,
                                                absl::Span<const int32_t> eos_ids);

// When an answer may end by itself.
enum class SimEnd { kNever, kByChance, kNow };

// The tokens of a simulated model. A state stands for all tokens before the one to come: token i is
// a function of the state, i and the sampling parameters, so a lost, doubled or changed token, and
// a lost parameter too, change everything behind it. Greedy draws leave out the seed, the sample's
// index and what only shapes a distribution. Immutable.
//
// Hashes are the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
// generators, 2014), chained: the same on every machine and in every build.
class SimTokens {
 public:
  // Unequal fingerprints give unequal tokens. An answer ends at each token with the probability
  // 1 / mean_tokens; 0 = never.
  SimTokens(SimVocabulary vocabulary, absl::string_view fingerprint, int64_t mean_tokens);

  uint64_t start() const { return start_; }
  static uint64_t Extend(uint64_t state, absl::Span<const int32_t> ids);

  // Token `index` of the answer. Obeys banned ids; a logit bias of 20 or more forces its id, one of
  // -20 or less bans it, and every bias takes part in the hash.
  SampledToken Draw(uint64_t state, int64_t index, const SampleRow& row, SimEnd end) const;

  // What a token that is known gets: its log-probability and the `num_logprobs` highest ones, of
  // which it is the first, as in SampledToken. Their probabilities sum to less than 1.
  SampledToken Score(uint64_t state, int32_t id, int32_t num_logprobs) const;

 private:
  int32_t Word(uint64_t hash) const { return vocabulary_.words[hash % vocabulary_.words.size()]; }

  const SimVocabulary vocabulary_;
  const uint64_t start_;
  const int64_t mean_tokens_;
};

// Hex hash of a text, for fingerprints.
std::string SimTextHash(absl::string_view text);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_SIM_TOKENS_H_
