#include "tests/engine/tokenizer/chat_case.h"

#include "engine/tokenizer/python_json.h"

namespace qwenserve {

std::vector<ChatMessage> ChatMessagesFrom(const Json& chat) {
  std::vector<ChatMessage> messages;
  for (const Json& from : chat.at("messages")) {
    ChatMessage message;
    message.role = from.at("role").get<std::string>();
    message.content = from.value("content", "");
    if (from.contains("reasoning_content")) {
      message.reasoning_content = from.at("reasoning_content").get<std::string>();
    }
    for (const Json& call : from.value("tool_calls", Json::array())) {
      const Json& function = call.at("function");
      message.tool_calls.push_back({call.value("id", ""), function.at("name").get<std::string>(),
                                    ToPythonJson(function.at("arguments"))});
    }
    messages.push_back(message);
  }
  return messages;
}

ChatOptions ChatOptionsFrom(const Json& chat) {
  ChatOptions options;
  for (const Json& tool : chat.value("tools", Json::array())) options.tools.push_back(tool.dump());
  if (chat.contains("enable_thinking")) {
    options.enable_thinking = chat.at("enable_thinking").get<bool>();
  }
  options.add_generation_prompt = chat.value("add_generation_prompt", true);
  options.continue_final_message = chat.value("continue_final_message", false);
  return options;
}

std::string Text(const std::vector<Segment>& segments) {
  std::string text;
  for (const Segment& segment : segments) text += segment.text;
  return text;
}

}  // namespace qwenserve
