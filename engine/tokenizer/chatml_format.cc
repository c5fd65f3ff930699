#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "engine/tokenizer/chat_formats.h"
#include "engine/tokenizer/python_json.h"

namespace qwenserve {
namespace {

constexpr char kStart[] = "<|im_start|>";
constexpr char kEnd[] = "<|im_end|>";
constexpr char kThink[] = "<think>";
constexpr char kThinkEnd[] = "</think>";
constexpr char kCall[] = "<tool_call>";
constexpr char kCallEnd[] = "</tool_call>";
constexpr char kResponse[] = "<tool_response>";
constexpr char kResponseEnd[] = "</tool_response>";

absl::string_view StripNewlinesLeft(absl::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  return text;
}

absl::string_view StripNewlinesRight(absl::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

struct Parts {
  absl::string_view reasoning;
  absl::string_view content;
};

// Reasoning that a client left inside the content is taken out of it.
Parts SplitReasoning(const ChatMessage& message) {
  if (message.reasoning_content.has_value()) return {*message.reasoning_content, message.content};
  const absl::string_view content = message.content;
  const size_t first_end = content.find(kThinkEnd);
  if (first_end == absl::string_view::npos) return {"", content};
  absl::string_view reasoning = StripNewlinesRight(content.substr(0, first_end));
  const size_t open = reasoning.rfind(kThink);
  if (open != absl::string_view::npos) reasoning.remove_prefix(open + sizeof(kThink) - 1);
  const size_t last_end = content.rfind(kThinkEnd) + sizeof(kThinkEnd) - 1;
  return {StripNewlinesLeft(reasoning), StripNewlinesLeft(content.substr(last_end))};
}

// Index of the last message by which the user asked something. Tool results that a client wraps
// by hand into a user turn are no question; without any question it is the last message.
size_t LastQuery(const std::vector<ChatMessage>& messages) {
  for (size_t i = messages.size(); i-- > 0;) {
    if (messages[i].role != "user") continue;
    const std::string& content = messages[i].content;
    if (!absl::StartsWith(content, kResponse) || !absl::EndsWith(content, kResponseEnd)) return i;
  }
  return messages.size() - 1;
}

class Renderer {
 public:
  Renderer(const ChatMlRules& rules, const std::vector<ChatMessage>& messages,
           PromptBuilder* prompt)
      : rules_(rules), messages_(messages), last_query_(LastQuery(messages)), prompt_(*prompt) {}

  void System(const std::vector<Json>& tools) {
    const bool given = messages_[0].role == "system";
    if (tools.empty() && !given && rules_.default_system == nullptr) return;
    Open("system");
    if (given) {
      prompt_.Text(messages_[0].content);
    } else if (rules_.default_system != nullptr) {
      prompt_.Text(rules_.default_system);
    }
    if (!tools.empty()) {
      if (given || rules_.default_system != nullptr) prompt_.Text("\n\n");
      Tools(tools);
    }
    Close();
  }

  // `open` leaves the turn to be continued.
  void Message(size_t index, bool open) {
    const ChatMessage& message = messages_[index];
    if (message.role == "tool") return ToolResponse(index);
    if (index == 0 && message.role == "system") return;  // System() wrote it
    Open(message.role);
    if (message.role == "assistant") {
      Assistant(index);
    } else {
      prompt_.Text(message.content);
    }
    if (!open) Close();
  }

  void ForcedCall(const std::string& name) {
    Open("assistant");
    if (rules_.thinking != ChatMlRules::Thinking::kNever) Thoughts("");
    prompt_.Markup(kCall);
    prompt_.Text(ForcedHermesCall(name));
  }

  void GenerationPrompt(bool skip_thinking) {
    Open("assistant");
    if (rules_.thinking == ChatMlRules::Thinking::kAlways) {
      prompt_.Markup(kThink);
      prompt_.Text("\n");
    } else if (skip_thinking && rules_.thinking == ChatMlRules::Thinking::kSwitch) {
      Thoughts("");
    }
  }

 private:
  void Open(absl::string_view role) {
    prompt_.Control(kStart);
    prompt_.Text(role);
    prompt_.Text("\n");
  }

  void Close() {
    prompt_.Control(kEnd);
    prompt_.Text("\n");
  }

  void Thoughts(absl::string_view reasoning) {
    prompt_.Markup(kThink);
    prompt_.Text("\n");
    prompt_.Text(reasoning);
    prompt_.Text("\n");
    prompt_.Markup(kThinkEnd);
    prompt_.Text("\n\n");
  }

  void Tools(const std::vector<Json>& tools) {
    prompt_.Text(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>");
    for (const Json& tool : tools) {
      prompt_.Text("\n");
      prompt_.Text(ToPythonJson(tool));
    }
    prompt_.Text(
        "\n</tools>\n\nFor each function call, return a json object with function name and "
        "arguments within ");
    prompt_.Markup(kCall);
    prompt_.Markup(kCallEnd);
    prompt_.Text(" XML tags:\n");
    prompt_.Markup(kCall);
    prompt_.Text("\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n");
    prompt_.Markup(kCallEnd);
  }

  void Assistant(size_t index) {
    const ChatMessage& message = messages_[index];
    absl::string_view content = message.content;
    if (rules_.thinking != ChatMlRules::Thinking::kNever) {
      const Parts parts = SplitReasoning(message);
      content = parts.content;
      // Thoughts of earlier questions are dropped, as in training.
      const bool last = index + 1 == messages_.size();
      if (index > last_query_ && (last || !parts.reasoning.empty())) {
        Thoughts(StripNewlinesLeft(StripNewlinesRight(parts.reasoning)));
        prompt_.Text(StripNewlinesLeft(content));
      } else {
        prompt_.Text(content);
      }
    } else {
      prompt_.Text(content);
    }
    for (size_t i = 0; i < message.tool_calls.size(); ++i) {
      if (i > 0 || !content.empty()) prompt_.Text("\n");
      Call(message.tool_calls[i]);
    }
  }

  // Arguments that are no JSON, as a model may have written them, stand as they are: an agent must
  // be able to show the model its mistake.
  void Call(const ToolCall& call) {
    std::string arguments = call.arguments.empty() ? "{}" : call.arguments;
    if (const auto json = ParseJson(arguments, "arguments"); json.ok()) {
      arguments = ToPythonJson(*json);
    }
    prompt_.Markup(kCall);
    prompt_.Text(
        absl::StrCat("\n{\"name\": \"", call.name, "\", \"arguments\": ", arguments, "}\n"));
    prompt_.Markup(kCallEnd);
  }

  // Consecutive results share one user turn.
  void ToolResponse(size_t index) {
    if (index == 0 || messages_[index - 1].role != "tool") {
      prompt_.Control(kStart);
      prompt_.Text("user");
    }
    prompt_.Text("\n");
    prompt_.Markup(kResponse);
    prompt_.Text("\n");
    prompt_.Text(messages_[index].content);
    prompt_.Text("\n");
    prompt_.Markup(kResponseEnd);
    if (index + 1 == messages_.size() || messages_[index + 1].role != "tool") Close();
  }

  const ChatMlRules& rules_;
  const std::vector<ChatMessage>& messages_;
  const size_t last_query_;
  PromptBuilder& prompt_;
};

}  // namespace

std::string ForcedHermesCall(const std::string& name) {
  // Up to where the next token begins in the models' own spelling.
  return name.empty() ? "\n{\"name\": \""
                      : absl::StrCat("\n{\"name\": \"", name, "\", \"arguments\":");
}

void RenderChatMl(const ChatMlRules& rules, const std::vector<ChatMessage>& messages,
                  const std::vector<Json>& tools, const ChatOptions& options,
                  PromptBuilder* prompt) {
  Renderer renderer(rules, messages, prompt);
  renderer.System(tools);
  for (size_t i = 0; i < messages.size(); ++i) {
    const bool open = options.continue_final_message && i + 1 == messages.size();
    renderer.Message(i, open);
  }
  if (options.forced_call.has_value() && !options.continue_final_message) {
    renderer.ForcedCall(*options.forced_call);
  } else if (options.add_generation_prompt && !options.continue_final_message) {
    renderer.GenerationPrompt(options.enable_thinking.has_value() && !*options.enable_thinking);
  }
}

}  // namespace qwenserve
