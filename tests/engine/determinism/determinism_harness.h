#ifndef QWENSERVE_TESTS_ENGINE_DETERMINISM_DETERMINISM_HARNESS_H_
#define QWENSERVE_TESTS_ENGINE_DETERMINISM_DETERMINISM_HARNESS_H_

#include <bit>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"

namespace qwenserve {

struct Format {
  std::string name;
  std::string architecture;
  DType dtype = DType::kBf16;
  WeightChoice weights = WeightChoice::kAuto;
  KvFormat kv = KvFormat::kBf16;
  std::optional<QuantizedStyle> quantized = {};  // in the checkpoint
};

inline std::ostream& operator<<(std::ostream& out, const Format& format) {
  return out << format.name;
}

inline constexpr int kVocab = 320;
inline constexpr char kQwen1[] = "QWenLMHeadModel";
inline constexpr char kQwen2[] = "Qwen2ForCausalLM";
inline constexpr char kQwen3[] = "Qwen3ForCausalLM";

inline const std::string& ModelDir(const Format& format) {
  static std::map<std::string, std::string> dirs;
  std::string& dir = dirs[format.name];
  if (dir.empty()) {
    TinyModel model;
    model.architecture = format.architecture;
    model.dtype = format.dtype;
    model.vocab_size = kVocab;
    if (format.architecture == kQwen1) model.num_kv_heads = model.num_query_heads;
    const std::string name = "determinism_" + format.name;
    dir = format.quantized.has_value() ? WriteTinyQuantized(name, model, *format.quantized)
                                       : WriteTinyCheckpoint(name, model);
  }
  return dir;
}

// The bits of a float as a number, so that NaN equals itself and 0 differs from -0.
using TokenBits = std::vector<std::tuple<int32_t, uint32_t>>;

inline void Append(const SampledToken& token, TokenBits* bits) {
  bits->emplace_back(token.id, std::bit_cast<uint32_t>(token.logprob));
  for (const TokenLogprob& other : token.top) {
    bits->emplace_back(other.id, std::bit_cast<uint32_t>(other.logprob));
  }
}

// All that a client can see of an answer.
struct Seen {
  std::vector<int32_t> ids;
  TokenBits logprobs;
  TokenBits prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  bool operator==(const Seen&) const = default;
};

inline std::ostream& operator<<(std::ostream& out, const Seen& seen) {
  for (int32_t id : seen.ids) out << id << " ";
  for (const auto& [id, bits] : seen.logprobs)
    out << id << ":" << std::hex << bits << std::dec << " ";
  return out;
}

inline Seen SeenOf(const Answer& answer) {
  Seen seen;
  seen.ids = answer.ids;
  for (const SampledToken& token : answer.tokens) Append(token, &seen.logprobs);
  for (const SampledToken& token : answer.prompt_logprobs) Append(token, &seen.prompt_logprobs);
  seen.finish = answer.finish;
  return seen;
}

inline std::vector<Seen> SeenOf(const std::vector<Answer>& answers) {
  std::vector<Seen> all;
  for (const Answer& answer : answers) all.push_back(SeenOf(answer));
  return all;
}

// Prompts of 1 to 70 tokens, some with a common beginning of several blocks; greedy, sampled and
// with all penalties; log-probabilities of some, of the prompt of a few.
inline std::vector<SequenceRequest> Requests(int count) {
  std::vector<SequenceRequest> requests = MixedRequests(count, kVocab);
  for (int i = 0; i < count; ++i) {
    SequenceRequest& request = requests[i];
    if (i % 3 == 0) {
      std::vector<int32_t> shared(40);
      for (int j = 0; j < 40; ++j) shared[j] = (7 * j + 5) % kVocab;
      shared.insert(shared.end(), request.prompt_ids.begin(), request.prompt_ids.end());
      request.prompt_ids = shared;
    }
    request.sampling.max_tokens = 24;
    if (i % 2 == 0) request.sampling.num_logprobs = i % 5;
    if (i % 7 == 1) request.sampling.num_prompt_logprobs = 2;
    if (i % 4 == 1) request.sampling.logit_bias = {{3, 1.5f}, {17, -100.0f}};
    if (i % 5 == 2) {
      request.sampling.ignore_eos = false;
      request.sampling.min_tokens = 4;
    }
    request.sample_index = i % 3;
  }
  return requests;
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_DETERMINISM_DETERMINISM_HARNESS_H_
