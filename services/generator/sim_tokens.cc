#include "services/generator/sim_tokens.h"

#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/base/split_mix.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

constexpr size_t kLeastWords = 16;
constexpr float kStrongBias = 20.0f;
// Different questions to the same state.
constexpr uint64_t kAskToken = 1, kAskEnd = 2, kAskLogprob = 3, kAskSeed = 4;

uint64_t Mix(uint64_t state, uint64_t value) {
  return SplitMix(state + kSplitMixStep * (value + 1));
}

uint64_t MixFloat(uint64_t state, float value) {
  return Mix(state, std::bit_cast<uint32_t>(value));
}

uint64_t HashText(absl::string_view text) {
  uint64_t hash = text.size();
  for (const char c : text) hash = Mix(hash, static_cast<unsigned char>(c));
  return hash;
}

uint64_t MixParams(uint64_t state, const SampleRow& row) {
  state = MixFloat(state, row.repetition_penalty);
  state = MixFloat(state, row.presence_penalty);
  state = MixFloat(state, row.frequency_penalty);
  for (const LogitBias& bias : row.logit_bias) {
    state = MixFloat(Mix(state, static_cast<uint64_t>(bias.id)), bias.bias);
  }
  if (row.temperature < kGreedyBelow) return state;
  state = MixFloat(state, row.temperature);
  state = Mix(state, static_cast<uint64_t>(row.top_k));
  state = MixFloat(MixFloat(state, row.top_p), row.min_p);
  return Mix(Mix(Mix(state, kAskSeed), row.seed), static_cast<uint64_t>(row.sample_index));
}

bool IsBanned(const SampleRow& row, int32_t id) {
  if (absl::c_linear_search(row.banned_ids, id)) return true;
  return absl::c_any_of(row.logit_bias, [id](const LogitBias& bias) {
    return bias.id == id && bias.bias <= -kStrongBias;
  });
}

// -1: no bias forces an id.
int32_t ForcedId(const SampleRow& row) {
  const LogitBias* highest = nullptr;
  for (const LogitBias& bias : row.logit_bias) {
    if (bias.bias < kStrongBias || IsBanned(row, bias.id)) continue;
    if (highest == nullptr || bias.bias > highest->bias) highest = &bias;
  }
  return highest == nullptr ? -1 : highest->id;
}

}  // namespace

absl::StatusOr<SimVocabulary> MakeSimVocabulary(const Tokenizer& tokenizer, int64_t vocab_size,
                                                absl::Span<const int32_t> eos_ids) {
  QS_CHECK(!eos_ids.empty());
  SimVocabulary vocabulary;
  vocabulary.eos_id = eos_ids.front();
  for (int32_t id = 0; id < tokenizer.vocab_size() && id < vocab_size; ++id) {
    const absl::string_view bytes = tokenizer.TokenBytes(id);
    if (bytes.size() < 3 || bytes[0] != ' ') continue;
    if (absl::c_all_of(bytes.substr(1), absl::ascii_islower)) vocabulary.words.push_back(id);
  }
  if (vocabulary.words.size() < kLeastWords) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer has ", vocabulary.words.size(),
                     " ids that are a space and a word, a simulated model needs ", kLeastWords));
  }
  return vocabulary;
}

SimTokens::SimTokens(SimVocabulary vocabulary, absl::string_view fingerprint, int64_t mean_tokens)
    : vocabulary_(std::move(vocabulary)),
      start_(HashText(fingerprint)),
      mean_tokens_(mean_tokens) {}

uint64_t SimTokens::Extend(uint64_t state, absl::Span<const int32_t> ids) {
  for (const int32_t id : ids) state = Mix(state, static_cast<uint64_t>(id));
  return state;
}

SampledToken SimTokens::Draw(uint64_t state, int64_t index, const SampleRow& row,
                             SimEnd end) const {
  const uint64_t hash = MixParams(Mix(state, static_cast<uint64_t>(index)), row);
  if (end == SimEnd::kByChance && mean_tokens_ > 0) {
    const uint64_t limit =
        std::numeric_limits<uint64_t>::max() / static_cast<uint64_t>(mean_tokens_);
    if (Mix(hash, kAskEnd) < limit) end = SimEnd::kNow;
  }
  if (end == SimEnd::kNow && !IsBanned(row, vocabulary_.eos_id)) {
    return Score(state, vocabulary_.eos_id, row.num_logprobs);
  }
  int32_t id = ForcedId(row);
  if (id < 0) {
    uint64_t draw = Mix(hash, kAskToken);
    id = Word(draw);
    // More bans than words end the search; what is drawn then is wrong for a real model too.
    for (size_t i = 0; i < 4 * vocabulary_.words.size() && IsBanned(row, id); ++i) {
      id = Word(draw = Mix(draw, kAskToken));
    }
  }
  return Score(state, id, row.num_logprobs);
}

SampledToken SimTokens::Score(uint64_t state, int32_t id, int32_t num_logprobs) const {
  SampledToken token;
  token.id = id;
  if (num_logprobs < 0) return token;
  const uint64_t hash = Mix(Mix(state, static_cast<uint64_t>(id)), kAskLogprob);
  // From 0.5 to 1, so that the others can all be below it and halve from one to the next.
  const double probability = 0.5 + static_cast<double>(hash % 4096) / 8400.0;
  token.logprob = static_cast<float>(std::log(probability));
  if (num_logprobs == 0) return token;
  token.top.push_back({id, token.logprob});
  double rest = (1.0 - probability) / 2;
  for (uint64_t i = 0; token.top.size() < static_cast<size_t>(num_logprobs); ++i) {
    if (i == vocabulary_.words.size()) break;
    const int32_t other = Word(hash % vocabulary_.words.size() + i);
    if (other == id) continue;
    token.top.push_back({other, static_cast<float>(std::log(rest))});
    rest /= 2;
  }
  return token;
}

std::string SimTextHash(absl::string_view text) {
  return absl::StrCat(absl::Hex(HashText(text), absl::kZeroPad16));
}

}  // namespace qwenserve
