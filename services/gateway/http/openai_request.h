#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_REQUEST_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_REQUEST_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "qwenserve/v1/inference.pb.h"

namespace qwenserve {

// OpenAI's JSON to the messages of our own API; https://platform.openai.com/docs/api-reference.
// Extensions carry the names that vLLM has given them. Ranges are left to request_validation, which
// both protocols share.
//
// Fields that are not known are ignored: clients send new ones before servers know them. Known ones
// that would change the answer, but are not built, are INVALID_ARGUMENT by their name, as is a
// wrong type.

// How the answer is to be written.
struct OpenAiStyle {
  bool stream = false;
  bool include_usage = false;
  bool logprobs = false;
  // Chat: `functions` instead of `tools`, so `function_call` in the answer.
  bool functions = false;
  // Completions: the prompt begins the text, and its log-probabilities theirs.
  bool echo = false;
};

struct OpenAiChat {
  v1::ChatRequest request;
  OpenAiStyle style;
};

struct OpenAiCompletion {
  // In one body; each is a request of its own to the rest of the gateway.
  static constexpr size_t kMaxPrompts = 128;

  std::vector<v1::CompleteRequest> requests;  // one for each prompt, else the same
  OpenAiStyle style;
};

absl::StatusOr<OpenAiChat> ParseChatRequest(absl::string_view body);
absl::StatusOr<OpenAiCompletion> ParseCompletionRequest(absl::string_view body);
absl::StatusOr<v1::TokenizeRequest> ParseTokenizeRequest(absl::string_view body);
absl::StatusOr<v1::DetokenizeTextRequest> ParseDetokenizeRequest(absl::string_view body);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_REQUEST_H_
