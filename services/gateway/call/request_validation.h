#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_REQUEST_VALIDATION_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_REQUEST_VALIDATION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "qwenserve/v1/inference.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"
#include "services/gateway/answer/tool_policy.h"
#include "services/gateway/auth/authenticator.h"

namespace qwenserve {

// The edge's check of what a client sends, field by field, before anything is spent on it. What
// needs the vocabulary or the template (ids, tool schemas) the tokenizer checks, what needs the
// engine the generator checks again. Ranges of sampling are the engine's own.

struct RequestLimits {
  size_t max_input_bytes = 4 << 20;  // messages and tools, or the prompt, as sent
  size_t max_detokenized_bytes = 16 << 20;
  int max_messages = 4096;
  int max_tools = 128;
  uint32_t max_n = 16;
  // The engine's own.
  uint32_t max_top_logprobs = 20;
  int max_logit_bias = 1024;
  int max_stop_strings = 16;
  int max_stop_token_ids = 16;
  size_t max_stop_bytes = 256;  // each
  size_t max_request_id_bytes = 128;
  size_t max_model_name_bytes = 256;
  size_t max_cache_salt_bytes = 256;
  int32_t max_priority = 1000;  // also with a minus sign
};

// A generation as the rest of the gateway knows it, whichever method asked for it.
struct GenerateRequest {
  bool chat = false;
  std::string model;  // may be empty
  // Ours, which workers and logs know; drawn when it is empty, so that no client can make two
  // requests look like one.
  std::string id;
  std::string request_id;  // the client's name for it, given back; may be empty
  v1::PrepareRequest prompt;
  v1::GenerationOptions options;
  // Comes before the answer's text.
  std::string echo_text;
  // Set: the prompt's log-probabilities, with so many alternatives.
  std::optional<uint32_t> prompt_logprobs;
  // nullptr: without tools. Its ids' seed is not set yet.
  std::shared_ptr<ToolPolicy> tools;
  // Set by the transport. `whole`: it keeps what it takes until the answer's end.
  Caller caller;
  bool whole = false;

  // What the client knows the request by.
  const std::string& shown_id() const { return request_id.empty() ? id : request_id; }
  uint32_t n() const { return options.n() == 0 ? 1 : options.n(); }
};

// INVALID_ARGUMENT with the path of the field; UNIMPLEMENTED, reason NOT_BUILT_YET, with the path
// for what is part of the API but not built: echo of token ids. The prompt is moved, not copied.
absl::StatusOr<GenerateRequest> ValidateChat(v1::ChatRequest request, const RequestLimits& limits);
absl::StatusOr<GenerateRequest> ValidateComplete(v1::CompleteRequest request,
                                                 const RequestLimits& limits);
absl::Status ValidateTokenize(const v1::TokenizeRequest& request, const RequestLimits& limits);
absl::Status ValidateDetokenize(const v1::DetokenizeTextRequest& request,
                                const RequestLimits& limits);

// The tokenizer names fields of a conversation from its own root, such as `messages[2].role`. Puts
// before them where the client's request has the conversation: `input` or `chat`.
absl::Status WithClientPaths(const absl::Status& status, const std::string& chat_path);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_REQUEST_VALIDATION_H_
