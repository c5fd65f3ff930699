#include "engine/sample/sampling_params.h"

#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

// A temperature between 0 and this would overflow the scaled logits instead of being greedy.
constexpr float kMinTemperature = 1e-3f;
constexpr size_t kMaxStopTokenIds = 64;

absl::Status OutOfRange(absl::string_view field, double value, absl::string_view range) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", must be ", range));
}

// False for NaN.
bool Within(float value, float low, float high) { return value >= low && value <= high; }

}  // namespace

absl::Status Validate(const SamplingParams& params) {
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
  if (params.stop_token_ids.size() > kMaxStopTokenIds) {
    return absl::InvalidArgumentError(absl::StrCat(
        "stop_token_ids has ", params.stop_token_ids.size(), " ids, at most ", kMaxStopTokenIds));
  }
  for (size_t i = 0; i < params.stop_token_ids.size(); ++i) {
    if (params.stop_token_ids[i] < 0) {
      return OutOfRange(absl::StrCat("stop_token_ids[", i, "]"), params.stop_token_ids[i],
                        "0 or greater");
    }
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
