#include "services/tokenizer/chat_conversion.h"

#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "services/common/error_details.h"

namespace qwenserve {
namespace {

absl::StatusOr<std::string> RoleName(v1::Role role, const std::string& field) {
  switch (role) {
    case v1::ROLE_SYSTEM:
      return "system";
    case v1::ROLE_USER:
      return "user";
    case v1::ROLE_ASSISTANT:
      return "assistant";
    case v1::ROLE_TOOL:
      return "tool";
    default:
      return InvalidField(field + ".role", "not set, or a role that this server does not know");
  }
}

absl::StatusOr<ChatMessage> ToMessage(const v1::ChatMessage& from, const std::string& field) {
  ChatMessage message;
  QS_ASSIGN_OR_RETURN(message.role, RoleName(from.role(), field));
  message.content = from.content();
  if (!from.reasoning().empty()) message.reasoning_content = from.reasoning();
  for (const v1::ToolCall& call : from.tool_calls()) {
    message.tool_calls.push_back(
        {.id = call.id(), .name = call.name(), .arguments = call.arguments_json()});
  }
  message.tool_call_id = from.tool_call_id();
  message.name = from.name();
  return message;
}

std::string JsonText(const std::string& text) {
  return Json(text).dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

// The schema is checked but passed on as written: spelling of numbers and order of keys reach the
// model.
absl::StatusOr<std::string> ToToolText(const v1::Tool& tool, const std::string& field) {
  if (tool.name().empty()) return InvalidField(field + ".name", "empty");
  std::string text =
      absl::StrCat(R"({"type": "function", "function": {"name": )", JsonText(tool.name()));
  if (!tool.description().empty()) {
    absl::StrAppend(&text, R"(, "description": )", JsonText(tool.description()));
  }
  if (!tool.parameters_json().empty()) {
    const std::string parameters = field + ".parameters_json";
    absl::StatusOr<Json> schema = ParseJson(tool.parameters_json(), parameters);
    if (!schema.ok()) return InvalidField(parameters, schema.status().message());
    if (!schema->is_object()) return InvalidField(parameters, "not a JSON object");
    absl::StrAppend(&text, R"(, "parameters": )", tool.parameters_json());
  }
  return absl::StrCat(text, "}}");
}

bool OffersTools(const v1::ChatInput& input) {
  return input.tools_size() > 0 && input.tool_choice().mode() != v1::ToolChoice::MODE_NONE;
}

}  // namespace

absl::StatusOr<Conversation> ToConversation(const v1::ChatInput& input) {
  const v1::ToolChoice::Mode choice = input.tool_choice().mode();
  if (choice != v1::ToolChoice::MODE_UNSPECIFIED && choice != v1::ToolChoice::MODE_AUTO &&
      choice != v1::ToolChoice::MODE_NONE) {
    return WithField(WithReason(absl::UnimplementedError(
                                    "tool_choice.mode: only AUTO and NONE are supported yet"),
                                kReasonNotBuiltYet),
                     "tool_choice.mode", "only AUTO and NONE are supported yet");
  }
  Conversation conversation;
  for (int i = 0; i < input.messages_size(); ++i) {
    QS_ASSIGN_OR_RETURN(ChatMessage message,
                        ToMessage(input.messages(i), absl::StrCat("messages[", i, "]")));
    conversation.messages.push_back(std::move(message));
  }
  if (OffersTools(input)) {
    for (int i = 0; i < input.tools_size(); ++i) {
      QS_ASSIGN_OR_RETURN(std::string tool,
                          ToToolText(input.tools(i), absl::StrCat("tools[", i, "]")));
      conversation.options.tools.push_back(std::move(tool));
    }
  }
  if (input.has_enable_thinking()) conversation.options.enable_thinking = input.enable_thinking();
  if (input.has_add_generation_prompt()) {
    conversation.options.add_generation_prompt = input.add_generation_prompt();
  }
  conversation.options.continue_final_message = input.continue_final_message();
  return conversation;
}

v1::AnswerFormat MakeAnswerFormat(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                                  const v1::ChatInput& input) {
  v1::AnswerFormat format;
  const absl::string_view name = chat_template.name();
  if (name == "qwen1") {
    format.set_tool_call_format(v1::AnswerFormat::TOOL_CALL_FORMAT_REACT);
    // The model would go on and invent the function's result.
    if (OffersTools(input)) format.add_stop("Observation:");
  } else if (name == "qwen2.5" || absl::StartsWith(name, "qwen3")) {
    format.set_tool_call_format(v1::AnswerFormat::TOOL_CALL_FORMAT_JSON_TAGS);
  }
  const bool thinking_off = input.has_enable_thinking() && !input.enable_thinking();
  format.set_may_reason(chat_template.OutputStartsInReasoning() ||
                        (name == "qwen3" && !thinking_off));
  const bool opens_answer = !input.continue_final_message() &&
                            (!input.has_add_generation_prompt() || input.add_generation_prompt());
  format.set_starts_in_reasoning(chat_template.OutputStartsInReasoning() && opens_answer);
  for (const char* end : {"<|im_end|>", "<|endoftext|>"}) {
    if (auto id = tokenizer.SpecialTokenId(end)) {
      format.add_stop_token_ids(static_cast<uint32_t>(*id));
    }
  }
  return format;
}

absl::Status WithNamedField(const absl::Status& status, absl::string_view prefix) {
  const size_t colon = status.message().find(": ");
  if (!absl::IsInvalidArgument(status) || colon == absl::string_view::npos ||
      !ErrorField(status).empty()) {
    return status;
  }
  const absl::string_view field = status.message().substr(0, colon);
  for (const char c : field) {
    if (!absl::ascii_isalnum(c) && !absl::StrContains("_.[]", absl::string_view(&c, 1))) {
      return status;
    }
  }
  return InvalidField(absl::StrCat(prefix, field), status.message().substr(colon + 2));
}

}  // namespace qwenserve
