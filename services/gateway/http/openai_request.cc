#include "services/gateway/http/openai_request.h"

#include <limits>
#include <utility>

#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/http/json_fields.h"
#include "services/gateway/http/openai_messages.h"
#include "services/gateway/http/openai_options.h"

namespace qwenserve {
namespace {

constexpr int64_t kMaxUint32 = std::numeric_limits<uint32_t>::max();

absl::Status ReadChatLogprobs(const JsonFields& body, v1::GenerationOptions* options,
                              OpenAiStyle* style) {
  QS_RETURN_IF_ERROR(body.Read("logprobs", &style->logprobs).status());
  int64_t top = 0;
  QS_ASSIGN_OR_RETURN(const bool there, body.ReadInteger("top_logprobs", 0, kMaxUint32, &top));
  if (there && top > 0 && !style->logprobs) {
    return InvalidField("top_logprobs", "needs logprobs: true");
  }
  if (style->logprobs) options->set_top_logprobs(static_cast<uint32_t>(top));
  return absl::OkStatus();
}

template <typename Ids>
absl::Status ReadIds(const Json& list, absl::string_view path, Ids* ids) {
  for (size_t i = 0; i < list.size(); ++i) {
    QS_ASSIGN_OR_RETURN(const int64_t id,
                        IntegerAt(list[i], absl::StrCat(path, "[", i, "]"), 0, kMaxUint32));
    ids->Add(static_cast<uint32_t>(id));
  }
  return absl::OkStatus();
}

// A text or the ids of one.
absl::Status ReadPrompt(const Json& prompt, const std::string& path, v1::CompleteRequest* request) {
  if (prompt.is_string()) {
    request->set_text(prompt.get_ref<const std::string&>());
    return absl::OkStatus();
  }
  if (prompt.is_array()) return ReadIds(prompt, path, request->mutable_token_ids()->mutable_ids());
  return WrongType(path, "a string or an array of token ids", prompt);
}

// One prompt, or an array of them.
absl::StatusOr<std::vector<v1::CompleteRequest>> ReadPrompts(const JsonFields& body) {
  const Json* prompt = body.Find("prompt");
  if (prompt == nullptr) return InvalidField("prompt", "is required");
  std::vector<v1::CompleteRequest> requests(1);
  if (!prompt->is_array() || prompt->empty() || prompt->front().is_number()) {
    QS_RETURN_IF_ERROR(ReadPrompt(*prompt, "prompt", &requests.front()));
    return requests;
  }
  if (prompt->size() > OpenAiCompletion::kMaxPrompts) {
    return InvalidField("prompt", absl::StrCat("has ", prompt->size(), " prompts, at most ",
                                               OpenAiCompletion::kMaxPrompts));
  }
  requests.resize(prompt->size());
  for (size_t i = 0; i < requests.size(); ++i) {
    QS_RETURN_IF_ERROR(ReadPrompt((*prompt)[i], absl::StrCat("prompt[", i, "]"), &requests[i]));
  }
  return requests;
}

absl::StatusOr<Json> ParseBody(absl::string_view body) {
  QS_ASSIGN_OR_RETURN(Json json, ParseJson(body, "body"));
  if (!json.is_object()) return WrongType("body", "an object", json);
  return json;
}

}  // namespace

absl::StatusOr<OpenAiChat> ParseChatRequest(absl::string_view body) {
  QS_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  QS_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(json, ""));
  OpenAiChat chat;
  QS_RETURN_IF_ERROR(fields.Read("model", chat.request.mutable_model()).status());
  QS_RETURN_IF_ERROR(ReadConversation(fields, chat.request.mutable_input(), &chat.style.functions));
  QS_RETURN_IF_ERROR(ReadOptions(fields, chat.request.mutable_options(), &chat.style));
  QS_RETURN_IF_ERROR(ReadChatLogprobs(fields, chat.request.mutable_options(), &chat.style));
  bool echo = false;
  QS_RETURN_IF_ERROR(fields.Read("echo", &echo).status());
  if (echo) return NotSupported("echo");
  bool parallel = true;
  QS_ASSIGN_OR_RETURN(const bool there, fields.Read("parallel_tool_calls", &parallel));
  if (there) chat.request.set_parallel_tool_calls(parallel);
  // The old API has room for one call.
  if (chat.style.functions) chat.request.set_parallel_tool_calls(false);
  return chat;
}

absl::StatusOr<OpenAiCompletion> ParseCompletionRequest(absl::string_view body) {
  QS_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  QS_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(json, ""));
  OpenAiCompletion completion;
  v1::CompleteRequest request;
  QS_RETURN_IF_ERROR(fields.Read("model", request.mutable_model()).status());
  QS_ASSIGN_OR_RETURN(completion.requests, ReadPrompts(fields));
  QS_RETURN_IF_ERROR(ReadOptions(fields, request.mutable_options(), &completion.style));
  std::string suffix;
  QS_RETURN_IF_ERROR(fields.Read("suffix", &suffix).status());
  if (!suffix.empty()) return NotSupported("suffix");
  QS_RETURN_IF_ERROR(fields.Read("echo", &completion.style.echo).status());
  request.set_echo(completion.style.echo);
  int64_t logprobs = 0;
  QS_ASSIGN_OR_RETURN(completion.style.logprobs,
                      fields.ReadInteger("logprobs", 0, kMaxUint32, &logprobs));
  if (completion.style.logprobs) {
    request.mutable_options()->set_top_logprobs(static_cast<uint32_t>(logprobs));
    if (completion.style.echo) {
      if (completion.style.stream) {
        return NotSupported("logprobs", "together with echo only without stream");
      }
      request.set_prompt_logprobs(static_cast<uint32_t>(logprobs));
    }
  }
  for (v1::CompleteRequest& prompt : completion.requests) prompt.MergeFrom(request);
  return completion;
}

absl::StatusOr<v1::TokenizeRequest> ParseTokenizeRequest(absl::string_view body) {
  QS_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  QS_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(json, ""));
  v1::TokenizeRequest request;
  QS_RETURN_IF_ERROR(fields.Read("model", request.mutable_model()).status());
  bool pieces = false;
  QS_RETURN_IF_ERROR(fields.Read("return_token_strs", &pieces).status());
  request.set_with_pieces(pieces);
  if (fields.Has("messages")) {
    if (fields.Has("prompt")) return InvalidField("prompt", "excludes messages");
    bool functions = false;
    QS_RETURN_IF_ERROR(ReadConversation(fields, request.mutable_chat(), &functions));
    return request;
  }
  if (!fields.Has("prompt")) return InvalidField("prompt", "prompt or messages is required");
  QS_RETURN_IF_ERROR(fields.Read("prompt", request.mutable_text()).status());
  return request;
}

absl::StatusOr<v1::DetokenizeTextRequest> ParseDetokenizeRequest(absl::string_view body) {
  QS_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  QS_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(json, ""));
  v1::DetokenizeTextRequest request;
  QS_RETURN_IF_ERROR(fields.Read("model", request.mutable_model()).status());
  QS_ASSIGN_OR_RETURN(const Json* tokens, fields.ReadArray("tokens"));
  if (tokens == nullptr) return InvalidField("tokens", "is required");
  QS_RETURN_IF_ERROR(ReadIds(*tokens, "tokens", request.mutable_token_ids()));
  return request;
}

}  // namespace qwenserve
