#include "services/gateway/http/openai_messages.h"

#include <string>

#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

absl::StatusOr<v1::Role> ParseRole(const JsonFields& message) {
  std::string role;
  QS_RETURN_IF_ERROR(message.Read("role", &role).status());
  if (role == "system" || role == "developer") return v1::ROLE_SYSTEM;
  if (role == "user") return v1::ROLE_USER;
  if (role == "assistant") return v1::ROLE_ASSISTANT;
  if (role == "tool" || role == "function") return v1::ROLE_TOOL;
  return InvalidField(message.PathOf("role"),
                      role.empty()
                          ? "is required"
                          : "must be system, developer, user, assistant, tool or function");
}

absl::StatusOr<std::string> ReadPart(const Json& value, const std::string& path) {
  QS_ASSIGN_OR_RETURN(const JsonFields part, JsonFields::Of(value, path));
  std::string type;
  QS_RETURN_IF_ERROR(part.Read("type", &type).status());
  if (type != "text") {
    return NotSupported(part.PathOf("type"),
                        absl::StrCat("'", ShownText(type), "' is not supported, only 'text' is"));
  }
  if (!part.Has("text")) return InvalidField(part.PathOf("text"), "is required");
  std::string text;
  QS_RETURN_IF_ERROR(part.Read("text", &text).status());
  return text;
}

// A string, or an array of text parts, which stand on lines of their own.
absl::StatusOr<std::string> ReadContent(const JsonFields& message) {
  const Json* content = message.Find("content");
  if (content == nullptr) return "";
  const std::string path = message.PathOf("content");
  if (content->is_string()) return content->get_ref<const std::string&>();
  if (!content->is_array()) {
    return WrongType(path, "a string or an array of parts", *content);
  }
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    QS_ASSIGN_OR_RETURN(const std::string part,
                        ReadPart((*content)[i], absl::StrCat(path, "[", i, "]")));
    absl::StrAppend(&text, i > 0 ? "\n" : "", part);
  }
  return text;
}

// {"name", "arguments"}: text, or an object by clients that are less strict.
absl::Status ReadFunctionCall(const Json& value, const std::string& path, v1::ToolCall* call) {
  QS_ASSIGN_OR_RETURN(const JsonFields function, JsonFields::Of(value, path));
  QS_RETURN_IF_ERROR(function.Read("name", call->mutable_name()).status());
  if (call->name().empty()) return InvalidField(function.PathOf("name"), "is required");
  const Json* arguments = function.Find("arguments");
  if (arguments != nullptr && arguments->is_object()) {
    call->set_arguments_json(arguments->dump());
    return absl::OkStatus();
  }
  return function.Read("arguments", call->mutable_arguments_json()).status();
}

absl::Status ReadToolCalls(const JsonFields& message, v1::ChatMessage* out) {
  QS_ASSIGN_OR_RETURN(const Json* calls, message.ReadArray("tool_calls"));
  for (size_t i = 0; calls != nullptr && i < calls->size(); ++i) {
    const std::string path = absl::StrCat(message.PathOf("tool_calls"), "[", i, "]");
    QS_ASSIGN_OR_RETURN(const JsonFields call, JsonFields::Of((*calls)[i], path));
    v1::ToolCall* tool_call = out->add_tool_calls();
    QS_RETURN_IF_ERROR(call.Read("id", tool_call->mutable_id()).status());
    const Json* function = call.Find("function");
    if (function == nullptr) return InvalidField(call.PathOf("function"), "is required");
    QS_RETURN_IF_ERROR(ReadFunctionCall(*function, call.PathOf("function"), tool_call));
  }
  if (const Json* call = message.Find("function_call"); call != nullptr) {
    QS_RETURN_IF_ERROR(
        ReadFunctionCall(*call, message.PathOf("function_call"), out->add_tool_calls()));
  }
  return absl::OkStatus();
}

absl::Status ReadMessage(const Json& value, const std::string& path, v1::ChatMessage* out) {
  QS_ASSIGN_OR_RETURN(const JsonFields message, JsonFields::Of(value, path));
  QS_ASSIGN_OR_RETURN(const v1::Role role, ParseRole(message));
  out->set_role(role);
  QS_ASSIGN_OR_RETURN(*out->mutable_content(), ReadContent(message));
  if (role == v1::ROLE_ASSISTANT) {
    const char* key = message.Has("reasoning_content") ? "reasoning_content" : "reasoning";
    QS_RETURN_IF_ERROR(message.Read(key, out->mutable_reasoning()).status());
    if (message.Has("audio")) return NotSupported(message.PathOf("audio"));
    QS_RETURN_IF_ERROR(ReadToolCalls(message, out));
    if (!message.Has("content") && out->tool_calls().empty() && out->reasoning().empty()) {
      return InvalidField(message.PathOf("content"), "is required");
    }
    return absl::OkStatus();
  }
  if (!message.Has("content")) return InvalidField(message.PathOf("content"), "is required");
  if (role == v1::ROLE_TOOL) {
    QS_RETURN_IF_ERROR(message.Read("tool_call_id", out->mutable_tool_call_id()).status());
    QS_RETURN_IF_ERROR(message.Read("name", out->mutable_name()).status());
  }
  return absl::OkStatus();
}

absl::Status ReadFunction(const Json& value, const std::string& path, v1::Tool* tool) {
  QS_ASSIGN_OR_RETURN(const JsonFields function, JsonFields::Of(value, path));
  QS_RETURN_IF_ERROR(function.Read("name", tool->mutable_name()).status());
  if (tool->name().empty()) return InvalidField(function.PathOf("name"), "is required");
  QS_RETURN_IF_ERROR(function.Read("description", tool->mutable_description()).status());
  if (const Json* parameters = function.Find("parameters"); parameters != nullptr) {
    if (!parameters->is_object()) {
      return WrongType(function.PathOf("parameters"), "an object", *parameters);
    }
    tool->set_parameters_json(parameters->dump());
  }
  return absl::OkStatus();
}

absl::Status ReadTools(const JsonFields& body, v1::ChatInput* input, bool* functions) {
  QS_ASSIGN_OR_RETURN(const Json* tools, body.ReadArray("tools"));
  QS_ASSIGN_OR_RETURN(const Json* old, body.ReadArray("functions"));
  if (tools != nullptr && old != nullptr) return InvalidField("functions", "excludes tools");
  *functions = old != nullptr;
  for (size_t i = 0; old != nullptr && i < old->size(); ++i) {
    QS_RETURN_IF_ERROR(
        ReadFunction((*old)[i], absl::StrCat("functions[", i, "]"), input->add_tools()));
  }
  for (size_t i = 0; tools != nullptr && i < tools->size(); ++i) {
    QS_ASSIGN_OR_RETURN(const JsonFields tool,
                        JsonFields::Of((*tools)[i], absl::StrCat("tools[", i, "]")));
    std::string type = "function";
    QS_RETURN_IF_ERROR(tool.Read("type", &type).status());
    if (type != "function") {
      return NotSupported(tool.PathOf("type"), "only 'function' is supported");
    }
    const Json* function = tool.Find("function");
    if (function == nullptr) return InvalidField(tool.PathOf("function"), "is required");
    QS_RETURN_IF_ERROR(ReadFunction(*function, tool.PathOf("function"), input->add_tools()));
  }
  return absl::OkStatus();
}

absl::Status ReadNamedChoice(const JsonFields& named, v1::ToolChoice* choice) {
  choice->set_mode(v1::ToolChoice::MODE_FUNCTION);
  QS_RETURN_IF_ERROR(named.Read("name", choice->mutable_function_name()).status());
  if (choice->function_name().empty()) return InvalidField(named.PathOf("name"), "is required");
  return absl::OkStatus();
}

absl::Status ReadModeName(const Json& value, const char* key, bool with_required,
                          v1::ToolChoice* choice) {
  const std::string& mode = value.get_ref<const std::string&>();
  if (mode == "none") {
    choice->set_mode(v1::ToolChoice::MODE_NONE);
  } else if (mode == "auto") {
    choice->set_mode(v1::ToolChoice::MODE_AUTO);
  } else if (mode == "required" && with_required) {
    choice->set_mode(v1::ToolChoice::MODE_REQUIRED);
  } else {
    return InvalidField(key, with_required ? "must be none, auto, required or a function"
                                           : "must be none, auto or a function");
  }
  return absl::OkStatus();
}

absl::Status ReadToolChoice(const JsonFields& body, v1::ToolChoice* choice) {
  if (const Json* value = body.Find("tool_choice"); value != nullptr) {
    if (value->is_string()) return ReadModeName(*value, "tool_choice", true, choice);
    QS_ASSIGN_OR_RETURN(const JsonFields named, JsonFields::Of(*value, "tool_choice"));
    std::string type;
    QS_RETURN_IF_ERROR(named.Read("type", &type).status());
    if (type != "function") {
      return NotSupported("tool_choice.type", "only 'function' is supported");
    }
    const Json* function = named.Find("function");
    if (function == nullptr) return InvalidField("tool_choice.function", "is required");
    QS_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Of(*function, "tool_choice.function"));
    return ReadNamedChoice(fields, choice);
  }
  if (const Json* value = body.Find("function_call"); value != nullptr) {
    if (value->is_string()) return ReadModeName(*value, "function_call", false, choice);
    QS_ASSIGN_OR_RETURN(const JsonFields named, JsonFields::Of(*value, "function_call"));
    return ReadNamedChoice(named, choice);
  }
  return absl::OkStatus();
}

absl::Status ReadTemplateArguments(const JsonFields& body, v1::ChatInput* input) {
  bool value = false;
  QS_ASSIGN_OR_RETURN(bool there, body.Read("enable_thinking", &value));
  if (there) input->set_enable_thinking(value);
  if (const Json* arguments = body.Find("chat_template_kwargs"); arguments != nullptr) {
    QS_ASSIGN_OR_RETURN(const JsonFields fields,
                        JsonFields::Of(*arguments, "chat_template_kwargs"));
    for (const auto& [key, ignored] : arguments->items()) {
      if (key == "enable_thinking") continue;
      return NotSupported(fields.PathOf(ShownText(key)), "only enable_thinking is supported");
    }
    QS_ASSIGN_OR_RETURN(there, fields.Read("enable_thinking", &value));
    if (there) input->set_enable_thinking(value);
  }
  QS_ASSIGN_OR_RETURN(there, body.Read("add_generation_prompt", &value));
  if (there) input->set_add_generation_prompt(value);
  value = false;
  QS_RETURN_IF_ERROR(body.Read("continue_final_message", &value).status());
  input->set_continue_final_message(value);
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadConversation(const JsonFields& body, v1::ChatInput* input, bool* functions) {
  QS_ASSIGN_OR_RETURN(const Json* messages, body.ReadArray("messages"));
  if (messages == nullptr) return InvalidField("messages", "is required");
  for (size_t i = 0; i < messages->size(); ++i) {
    QS_RETURN_IF_ERROR(
        ReadMessage((*messages)[i], absl::StrCat("messages[", i, "]"), input->add_messages()));
  }
  QS_RETURN_IF_ERROR(ReadTools(body, input, functions));
  QS_RETURN_IF_ERROR(ReadToolChoice(body, input->mutable_tool_choice()));
  return ReadTemplateArguments(body, input);
}

}  // namespace qwenserve
