#include "services/tokenizer/chat_conversion.h"

#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"

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

absl::Status ForceCall(const v1::ChatInput& input, ChatOptions* options) {
  switch (input.tool_choice().mode()) {
    case v1::ToolChoice::MODE_FUNCTION:
      for (const v1::Tool& tool : input.tools()) {
        if (tool.name() == input.tool_choice().function_name()) options->forced_call = tool.name();
      }
      if (options->forced_call.has_value()) return absl::OkStatus();
      return InvalidField("tool_choice.function_name", "is none of the tools");
    case v1::ToolChoice::MODE_REQUIRED:
      // Where there is no choice, the name is known.
      options->forced_call = input.tools_size() == 1 ? input.tools(0).name() : "";
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

}  // namespace

absl::StatusOr<Conversation> ToConversation(const v1::ChatInput& input) {
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
  QS_RETURN_IF_ERROR(ForceCall(input, &conversation.options));
  if (input.has_enable_thinking()) conversation.options.enable_thinking = input.enable_thinking();
  if (input.has_add_generation_prompt()) {
    conversation.options.add_generation_prompt = input.add_generation_prompt();
  }
  conversation.options.continue_final_message = input.continue_final_message();
  return conversation;
}

v1::AnswerFormat MakeAnswerFormat(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                                  const Conversation& conversation) {
  v1::AnswerFormat format;
  const ChatOptions& options = conversation.options;
  const bool tools = !options.tools.empty();
  switch (chat_template.tool_format()) {
    case ToolFormat::kNone:
      break;
    case ToolFormat::kHermes:
      format.set_tool_call_format(v1::AnswerFormat::TOOL_CALL_FORMAT_JSON_TAGS);
      break;
    // The model would go on and invent the functions' results.
    case ToolFormat::kReAct:
      format.set_tool_call_format(v1::AnswerFormat::TOOL_CALL_FORMAT_REACT);
      if (tools) format.add_stop("Observation:");
      break;
    case ToolFormat::kFlower:
      format.set_tool_call_format(v1::AnswerFormat::TOOL_CALL_FORMAT_FLOWER);
      if (tools) {
        format.add_stop("✿RESULT✿");
        format.add_stop("✿RETURN✿");
      }
      break;
  }
  format.set_opening(chat_template.AnswerOpening(conversation.messages, options));
  const bool thinking_off =
      options.forced_call.has_value() || !options.enable_thinking.value_or(true);
  const bool always = chat_template.OutputStartsInReasoning();
  format.set_may_reason((always || chat_template.name() == "qwen3") && !thinking_off);
  format.set_starts_in_reasoning(always && !thinking_off && options.add_generation_prompt &&
                                 !options.continue_final_message && format.opening().empty());
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
