#include "tools/qwenctl/conversation_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

absl::Status WrongConversation(const std::string& path, absl::string_view field,
                               absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", field, " ", what));
}

const char* RoleName(v1::Role role) {
  return role == v1::ROLE_ASSISTANT ? "assistant" : role == v1::ROLE_TOOL ? "tool" : "user";
}

Json MessageToJson(const v1::ChatMessage& message) {
  Json json = {{"role", RoleName(message.role())}, {"content", message.content()}};
  if (!message.reasoning().empty()) json["reasoning"] = message.reasoning();
  if (!message.tool_call_id().empty()) json["tool_call_id"] = message.tool_call_id();
  for (const v1::ToolCall& call : message.tool_calls()) {
    json["tool_calls"].push_back(
        {{"id", call.id()},
         {"type", "function"},
         {"function", {{"name", call.name()}, {"arguments", call.arguments_json()}}}});
  }
  return json;
}

// 0.7 and not 0.699999988079071, which is what the float is.
double Decimal(float value) {
  double decimal = value;
  return absl::SimpleAtod(absl::StrCat(value), &decimal) ? decimal : value;
}

Json SettingsToJson(const v1::ChatRequest& request) {
  const v1::GenerationOptions& options = request.options();
  const v1::SamplingParams& sampling = options.sampling();
  Json json = Json::object();
  if (!request.model().empty()) json["model"] = request.model();
  if (sampling.has_temperature()) json["temperature"] = Decimal(sampling.temperature());
  if (sampling.has_top_p()) json["top_p"] = Decimal(sampling.top_p());
  if (sampling.has_seed()) json["seed"] = sampling.seed();
  if (options.has_max_tokens()) json["max_tokens"] = options.max_tokens();
  if (request.input().has_enable_thinking()) {
    json["thinking"] = request.input().enable_thinking() ? "on" : "off";
  }
  return json;
}

// The text at `key`, "" when it is not there.
absl::StatusOr<std::string> ConversationText(const std::string& path, const Json& json,
                                             const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return std::string();
  if (!found->is_string()) return WrongConversation(path, key, "is not a string");
  return found->get<std::string>();
}

absl::Status ReadCalls(const std::string& path, const Json& json, v1::ChatMessage* message) {
  const auto calls = json.find("tool_calls");
  if (calls == json.end() || calls->is_null()) return absl::OkStatus();
  if (!calls->is_array()) return WrongConversation(path, "tool_calls", "is not a list");
  for (const Json& entry : *calls) {
    const auto function = entry.is_object() ? entry.find("function") : entry.end();
    if (!entry.is_object() || function == entry.end() || !function->is_object()) {
      return WrongConversation(path, "tool_calls", "holds something without a function");
    }
    v1::ToolCall* call = message->add_tool_calls();
    QS_ASSIGN_OR_RETURN(*call->mutable_id(), ConversationText(path, entry, "id"));
    QS_ASSIGN_OR_RETURN(*call->mutable_name(), ConversationText(path, *function, "name"));
    QS_ASSIGN_OR_RETURN(*call->mutable_arguments_json(),
                        ConversationText(path, *function, "arguments"));
  }
  return absl::OkStatus();
}

absl::Status ReadConversationMessage(const std::string& path, const Json& json,
                                     v1::ChatMessage* message) {
  if (!json.is_object())
    return WrongConversation(path, "messages", "holds something that is no object");
  QS_ASSIGN_OR_RETURN(const std::string role, ConversationText(path, json, "role"));
  if (role == "user") {
    message->set_role(v1::ROLE_USER);
  } else if (role == "assistant") {
    message->set_role(v1::ROLE_ASSISTANT);
  } else if (role == "tool") {
    message->set_role(v1::ROLE_TOOL);
  } else {
    return WrongConversation(path, "role", absl::StrCat("is '", ShownText(role), "'"));
  }
  QS_ASSIGN_OR_RETURN(*message->mutable_content(), ConversationText(path, json, "content"));
  QS_ASSIGN_OR_RETURN(*message->mutable_reasoning(), ConversationText(path, json, "reasoning"));
  QS_ASSIGN_OR_RETURN(*message->mutable_tool_call_id(),
                      ConversationText(path, json, "tool_call_id"));
  return ReadCalls(path, json, message);
}

absl::Status ReadConversationSettings(const std::string& path, const Json& settings,
                                      v1::ChatRequest* request) {
  QS_ASSIGN_OR_RETURN(*request->mutable_model(), ConversationText(path, settings, "model"));
  QS_ASSIGN_OR_RETURN(const std::string thinking, ConversationText(path, settings, "thinking"));
  v1::ChatInput* input = request->mutable_input();
  input->clear_enable_thinking();
  if (thinking == "on" || thinking == "off") input->set_enable_thinking(thinking == "on");
  v1::GenerationOptions* options = request->mutable_options();
  v1::SamplingParams* sampling = options->mutable_sampling();
  sampling->clear_temperature();
  sampling->clear_top_p();
  sampling->clear_seed();
  options->clear_max_tokens();
  for (const auto& [key, value] : settings.items()) {
    const bool count = key == "seed" || key == "max_tokens";
    if (!count && key != "temperature" && key != "top_p") continue;
    if (count ? !value.is_number_unsigned() : !value.is_number()) {
      return WrongConversation(path, key, count ? "is not a count" : "is not a number");
    }
    const uint64_t most = std::numeric_limits<uint32_t>::max();
    if (key == "max_tokens" && value.get<uint64_t>() > most) {
      return WrongConversation(path, key, absl::StrCat("is above ", most));
    }
    if (key == "temperature") sampling->set_temperature(value.get<float>());
    if (key == "top_p") sampling->set_top_p(value.get<float>());
    if (key == "seed") sampling->set_seed(value.get<uint64_t>());
    if (key == "max_tokens") options->set_max_tokens(value.get<uint32_t>());
  }
  return absl::OkStatus();
}

absl::Status ReadConversation(const std::string& path, const Json& json, v1::ChatRequest* request) {
  if (!json.is_object()) return WrongConversation(path, "the file", "is no conversation");
  const auto messages = json.find("messages");
  if (messages == json.end() || !messages->is_array()) {
    return WrongConversation(path, "messages", "is not a list");
  }
  const auto found = json.find("settings");
  const Json settings = found == json.end() ? Json::object() : *found;
  if (!settings.is_object()) return WrongConversation(path, "settings", "is not an object");
  QS_RETURN_IF_ERROR(ReadConversationSettings(path, settings, request));
  v1::ChatInput* input = request->mutable_input();
  input->clear_messages();
  QS_ASSIGN_OR_RETURN(const std::string system, ConversationText(path, settings, "system"));
  if (!system.empty()) {
    v1::ChatMessage* message = input->add_messages();
    message->set_role(v1::ROLE_SYSTEM);
    message->set_content(system);
  }
  for (const Json& message : *messages) {
    QS_RETURN_IF_ERROR(ReadConversationMessage(path, message, input->add_messages()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SaveConversation(const std::string& path, const v1::ChatRequest& request) {
  const int64_t now = absl::ToUnixMillis(absl::Now());
  Json json = {{"title", ""}, {"created", now}, {"updated", now}};
  json["settings"] = SettingsToJson(request);
  json["messages"] = Json::array();
  for (const v1::ChatMessage& message : request.input().messages()) {
    if (message.role() == v1::ROLE_SYSTEM) {
      json["settings"]["system"] = message.content();
      continue;
    }
    if (json["title"] == "")
      json["title"] = message.content().substr(0, message.content().find('\n'));
    json["messages"].push_back(MessageToJson(message));
  }
  std::ofstream file(path, std::ios::trunc);
  file << json.dump(1, ' ', false, Json::error_handler_t::replace) << std::endl;
  if (file.good()) return absl::OkStatus();
  return absl::UnknownError(absl::StrCat(path, ": ", std::strerror(errno)));
}

absl::Status LoadConversation(const std::string& path, v1::ChatRequest* request) {
  QS_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path));
  const bool list = json.is_array() && !json.empty();
  v1::ChatRequest loaded = *request;
  QS_RETURN_IF_ERROR(ReadConversation(path, list ? json[0] : json, &loaded));
  *request = loaded;
  return absl::OkStatus();
}

}  // namespace qwenserve
