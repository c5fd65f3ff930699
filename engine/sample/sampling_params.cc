#include "engine/sample/sampling_params.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

// A temperature between 0 and this would overflow the scaled logits instead of being greedy.
constexpr float kMinTemperature = 1e-3f;

absl::Status OutOfRange(absl::string_view field, double value, absl::string_view range) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", must be ", range));
}

// False for NaN.
bool Within(float value, float low, float high) { return value >= low && value <= high; }

absl::Status CheckId(absl::string_view list, size_t index, int32_t id, int64_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return OutOfRange(absl::StrCat(list, "[", index, "]"), id,
                    absl::StrCat("an id of the vocabulary, from 0 to ", vocab_size - 1));
}

absl::Status CheckSize(absl::string_view field, size_t size, int limit) {
  if (size <= static_cast<size_t>(limit)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " has ", size, " ids, at most ", limit));
}

absl::Status CheckIds(const SamplingParams& params, int64_t vocab_size) {
  QS_RETURN_IF_ERROR(CheckSize("stop_token_ids", params.stop_token_ids.size(), kMaxStopTokenIds));
  for (size_t i = 0; i < params.stop_token_ids.size(); ++i) {
    QS_RETURN_IF_ERROR(CheckId("stop_token_ids", i, params.stop_token_ids[i], vocab_size));
  }
  QS_RETURN_IF_ERROR(CheckSize("logit_bias", params.logit_bias.size(), kMaxLogitBias));
  for (size_t i = 0; i < params.logit_bias.size(); ++i) {
    const LogitBias& bias = params.logit_bias[i];
    QS_RETURN_IF_ERROR(CheckId("logit_bias", i, bias.id, vocab_size));
    if (i > 0 && bias.id <= params.logit_bias[i - 1].id) {
      return OutOfRange(absl::StrCat("logit_bias[", i, "]"), bias.id, "above the id before it");
    }
    if (!Within(bias.bias, -kMaxBias, kMaxBias)) {
      return OutOfRange(absl::StrCat("logit_bias[", bias.id, "]"), bias.bias, "from -100 to 100");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLogprobs(absl::string_view field, int32_t count) {
  if (count >= -1 && count <= kMaxTopLogprobs) return absl::OkStatus();
  return OutOfRange(field, count, absl::StrCat("from 0 to ", kMaxTopLogprobs, ", or -1 (off)"));
}

}  // namespace

absl::Status Validate(const SamplingParams& params, int64_t vocab_size) {
  if (params.temperature != 0.0f && !Within(params.temperature, kMinTemperature, 100.0f)) {
    return OutOfRange("temperature", params.temperature, "0 or from 0.001 to 100");
  }
  if (params.top_k < 0) return OutOfRange("top_k", params.top_k, "0 (off) or greater");
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return OutOfRange("top_p", params.top_p, "greater than 0 and at most 1");
  }
  if (!Within(params.min_p, 0.0f, 1.0f)) return OutOfRange("min_p", params.min_p, "from 0 to 1");
  if (!Within(params.repetition_penalty, 0.01f, 100.0f)) {
    return OutOfRange("repetition_penalty", params.repetition_penalty, "from 0.01 to 100");
  }
  if (!Within(params.presence_penalty, -2.0f, 2.0f)) {
    return OutOfRange("presence_penalty", params.presence_penalty, "from -2 to 2");
  }
  if (!Within(params.frequency_penalty, -2.0f, 2.0f)) {
    return OutOfRange("frequency_penalty", params.frequency_penalty, "from -2 to 2");
  }
  if (params.max_tokens < 1) {
    return OutOfRange("max_tokens", static_cast<double>(params.max_tokens), "1 or greater");
  }
  if (params.min_tokens < 0 || params.min_tokens > params.max_tokens) {
    return OutOfRange("min_tokens", static_cast<double>(params.min_tokens),
                      absl::StrCat("from 0 to max_tokens (", params.max_tokens, ")"));
  }
  QS_RETURN_IF_ERROR(CheckLogprobs("num_logprobs", params.num_logprobs));
  QS_RETURN_IF_ERROR(CheckLogprobs("num_prompt_logprobs", params.num_prompt_logprobs));
  return CheckIds(params, vocab_size);
}

}  // namespace qwenserve
