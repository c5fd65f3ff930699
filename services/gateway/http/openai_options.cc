#include "services/gateway/http/openai_options.h"

#include <limits>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

constexpr int64_t kUint32Max = std::numeric_limits<uint32_t>::max();
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

// Refused unless they hold what is done anyway.
absl::Status RefuseUnsupported(const JsonFields& body) {
  for (const char* key : {"guided_json",
                          "guided_regex",
                          "guided_choice",
                          "guided_grammar",
                          "structured_outputs",
                          "logits_processors",
                          "truncate_prompt_tokens",
                          "thinking_token_budget",
                          "chat_template",
                          "documents",
                          "reasoning_effort",
                          "verbosity",
                          "web_search_options",
                          "audio",
                          "lora_request",
                          "prompt_embeds",
                          "prompt_logprobs",
                          "allowed_token_ids",
                          "max_time",
                          "typical_p",
                          "mirostat",
                          "grammar",
                          "json_schema"}) {
    if (body.Has(key)) return NotSupported(body.PathOf(key));
  }
  for (const char* key : {"use_beam_search", "include_stop_str_in_output",
                          "return_tokens_as_token_ids", "return_token_ids"}) {
    bool value = false;
    QS_RETURN_IF_ERROR(body.Read(key, &value).status());
    if (value) return NotSupported(body.PathOf(key), "only false is supported");
  }
  for (const char* key : {"skip_special_tokens"}) {
    bool value = true;
    QS_RETURN_IF_ERROR(body.Read(key, &value).status());
    if (!value) return NotSupported(body.PathOf(key), "only true is supported");
  }
  double length_penalty = 1;
  QS_RETURN_IF_ERROR(body.Read("length_penalty", &length_penalty).status());
  if (length_penalty != 1)
    return NotSupported(body.PathOf("length_penalty"), "only 1 is supported");
  QS_ASSIGN_OR_RETURN(const Json* bad_words, body.ReadArray("bad_words"));
  if (bad_words != nullptr && !bad_words->empty()) return NotSupported(body.PathOf("bad_words"));
  QS_ASSIGN_OR_RETURN(const Json* modalities, body.ReadArray("modalities"));
  if (modalities != nullptr && *modalities != Json::array({"text"})) {
    return NotSupported(body.PathOf("modalities"), "only [\"text\"] is supported");
  }
  return absl::OkStatus();
}

absl::Status CheckResponseFormat(const JsonFields& body) {
  const Json* value = body.Find("response_format");
  if (value == nullptr) return absl::OkStatus();
  QS_ASSIGN_OR_RETURN(const JsonFields format,
                      JsonFields::Of(*value, body.PathOf("response_format")));
  std::string type;
  QS_RETURN_IF_ERROR(format.Read("type", &type).status());
  if (type == "text") return absl::OkStatus();
  return NotSupported(body.PathOf("response_format"), "only the type 'text' is supported");
}

template <typename Setter>
absl::Status ReadFloat(const JsonFields& body, const char* key, Setter set) {
  double value = 0;
  QS_ASSIGN_OR_RETURN(const bool there, body.Read(key, &value));
  if (there) set(static_cast<float>(value));
  return absl::OkStatus();
}

absl::Status ReadLogitBias(const JsonFields& body, v1::SamplingParams* sampling) {
  const Json* value = body.Find("logit_bias");
  if (value == nullptr) return absl::OkStatus();
  QS_ASSIGN_OR_RETURN(const JsonFields bias, JsonFields::Of(*value, "logit_bias"));
  for (const auto& [key, entry] : value->items()) {
    uint32_t id = 0;
    const std::string path = absl::StrCat("logit_bias[", ShownText(key), "]");
    if (!absl::SimpleAtoi(key, &id)) return InvalidField(path, "the key is not a token id");
    if (!entry.is_number()) return WrongType(path, "a number", entry);
    const bool added = sampling->mutable_logit_bias()->insert({id, entry.get<float>()}).second;
    if (!added) return InvalidField(path, "the id occurs twice");
  }
  return absl::OkStatus();
}

absl::Status ReadSampling(const JsonFields& body, v1::SamplingParams* sampling) {
  QS_RETURN_IF_ERROR(
      ReadFloat(body, "temperature", [&](float value) { sampling->set_temperature(value); }));
  QS_RETURN_IF_ERROR(ReadFloat(body, "top_p", [&](float value) { sampling->set_top_p(value); }));
  QS_RETURN_IF_ERROR(ReadFloat(body, "min_p", [&](float value) { sampling->set_min_p(value); }));
  QS_RETURN_IF_ERROR(ReadFloat(body, "repetition_penalty",
                               [&](float value) { sampling->set_repetition_penalty(value); }));
  QS_RETURN_IF_ERROR(ReadFloat(body, "presence_penalty",
                               [&](float value) { sampling->set_presence_penalty(value); }));
  QS_RETURN_IF_ERROR(ReadFloat(body, "frequency_penalty",
                               [&](float value) { sampling->set_frequency_penalty(value); }));
  int64_t top_k = 0;
  QS_ASSIGN_OR_RETURN(const bool has_top_k, body.ReadInteger("top_k", -1, kMaxInt32, &top_k));
  // -1 is how clients of vLLM write "all".
  if (has_top_k) sampling->set_top_k(top_k < 0 ? 0 : static_cast<uint32_t>(top_k));
  int64_t seed = 0;
  QS_ASSIGN_OR_RETURN(const bool has_seed,
                      body.ReadInteger("seed", 0, std::numeric_limits<int64_t>::max(), &seed));
  if (has_seed) sampling->set_seed(static_cast<uint64_t>(seed));
  return ReadLogitBias(body, sampling);
}

absl::Status ReadStops(const JsonFields& body, v1::GenerationOptions* options) {
  if (const Json* stop = body.Find("stop"); stop != nullptr) {
    if (stop->is_string()) {
      options->add_stop(stop->get_ref<const std::string&>());
    } else if (stop->is_array()) {
      for (size_t i = 0; i < stop->size(); ++i) {
        QS_ASSIGN_OR_RETURN(*options->add_stop(),
                            StringAt((*stop)[i], absl::StrCat("stop[", i, "]")));
      }
    } else {
      return WrongType("stop", "a string or an array of strings", *stop);
    }
  }
  QS_ASSIGN_OR_RETURN(const Json* ids, body.ReadArray("stop_token_ids"));
  for (size_t i = 0; ids != nullptr && i < ids->size(); ++i) {
    QS_ASSIGN_OR_RETURN(
        const int64_t id,
        IntegerAt((*ids)[i], absl::StrCat("stop_token_ids[", i, "]"), 0, kUint32Max));
    options->add_stop_token_ids(static_cast<uint32_t>(id));
  }
  return absl::OkStatus();
}

absl::Status ReadLengths(const JsonFields& body, v1::GenerationOptions* options) {
  int64_t max_tokens = 0;
  int64_t newer = 0;
  QS_ASSIGN_OR_RETURN(const bool has_max,
                      body.ReadInteger("max_tokens", 0, kUint32Max, &max_tokens));
  QS_ASSIGN_OR_RETURN(const bool has_newer,
                      body.ReadInteger("max_completion_tokens", 0, kUint32Max, &newer));
  if (has_max && has_newer && max_tokens != newer) {
    return InvalidField("max_tokens", "differs from max_completion_tokens");
  }
  if (has_max || has_newer) {
    options->set_max_tokens(static_cast<uint32_t>(has_newer ? newer : max_tokens));
  }
  int64_t value = 0;
  QS_ASSIGN_OR_RETURN(bool there, body.ReadInteger("min_tokens", 0, kUint32Max, &value));
  if (there) options->set_min_tokens(static_cast<uint32_t>(value));
  QS_ASSIGN_OR_RETURN(there, body.ReadInteger("n", 1, kMaxInt32, &value));
  if (there) options->set_n(static_cast<uint32_t>(value));
  int64_t best_of = 1;
  QS_ASSIGN_OR_RETURN(there, body.ReadInteger("best_of", 0, kMaxInt32, &best_of));
  if (there && best_of > 1 && best_of != options->n()) {
    return NotSupported("best_of", "only 1, or the value of n, is supported");
  }
  return absl::OkStatus();
}

absl::Status ReadStream(const JsonFields& body, OpenAiStyle* style) {
  QS_RETURN_IF_ERROR(body.Read("stream", &style->stream).status());
  const Json* value = body.Find("stream_options");
  if (value == nullptr) return absl::OkStatus();
  QS_ASSIGN_OR_RETURN(const JsonFields options, JsonFields::Of(*value, "stream_options"));
  if (!style->stream) return InvalidField("stream_options", "needs stream: true");
  QS_RETURN_IF_ERROR(options.Read("include_usage", &style->include_usage).status());
  bool continuous = false;
  QS_RETURN_IF_ERROR(options.Read("continuous_usage_stats", &continuous).status());
  if (continuous) return NotSupported("stream_options.continuous_usage_stats");
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadOptions(const JsonFields& body, v1::GenerationOptions* options,
                         OpenAiStyle* style) {
  QS_RETURN_IF_ERROR(RefuseUnsupported(body));
  QS_RETURN_IF_ERROR(CheckResponseFormat(body));
  QS_RETURN_IF_ERROR(ReadStream(body, style));
  QS_RETURN_IF_ERROR(ReadSampling(body, options->mutable_sampling()));
  QS_RETURN_IF_ERROR(ReadLengths(body, options));
  QS_RETURN_IF_ERROR(ReadStops(body, options));
  bool ignore_eos = false;
  QS_RETURN_IF_ERROR(body.Read("ignore_eos", &ignore_eos).status());
  options->set_ignore_eos(ignore_eos);
  int64_t priority = 0;
  QS_RETURN_IF_ERROR(body.ReadInteger("priority", -kMaxInt32, kMaxInt32, &priority).status());
  options->set_priority(static_cast<int32_t>(priority));
  return body.Read("cache_salt", options->mutable_cache_salt()).status();
}

}  // namespace qwenserve
