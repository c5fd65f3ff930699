#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/tokenizer/chat_formats.h"
#include "engine/tokenizer/python_json.h"
#include "engine/tokenizer/unicode.h"

namespace qwenserve {
namespace {

constexpr char kReply[] = "✿RETURN✿";

// The words around the tools, in the two languages in which models know them.
struct Words {
  const char* head;
  const char* parameters;
  const char* json;
  const char* code;
  const char* commands;  // then the names, separated by commas
  const char* meanings;
};

constexpr Words kEnglish = {
    "# Tools\n\n## You have access to the following tools:\n\n",
    "Parameters: ",
    "Format the arguments as a JSON object.",
    "Enclose the code within triple backticks (`) at the beginning and end of the code.",
    "## When you need to call a tool, please insert the following command in your reply, which can "
    "be called zero or multiple times according to your needs:\n\n"
    "✿FUNCTION✿: The tool to use, should be one of [",
    "]\n✿ARGS✿: The input of the tool\n✿RESULT✿: Tool results\n"
    "✿RETURN✿: Reply based on tool results. Images need to be rendered as ![](url)",
};

constexpr Words kChinese = {
    "# 工具\n\n## 你拥有如下工具：\n\n",
    "输入参数：",
    "此工具的输入应为JSON对象。",
    "此工具的输入应为Markdown代码块。",
    "## 你可以在回复中插入零次、一次或多次以下命令以调用工具：\n\n"
    "✿FUNCTION✿: 工具名称，必须是[",
    "]之一。\n✿ARGS✿: 工具输入\n✿RESULT✿: 工具结果\n"
    "✿RETURN✿: 根据工具结果进行回复，需将图片用![](url)渲染出来",
};

bool HasChinese(absl::string_view text) {
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const Utf8Step step = ReadUtf8(p, end);
    if (step.kind != Utf8Step::Kind::kValid) return false;  // refused when it is encoded
    if (step.code >= 0x4E00 && step.code <= 0x9FFF) return true;
    p += step.size;
  }
  return false;
}

bool IsChinese(const std::vector<ChatMessage>& messages) {
  return std::any_of(messages.begin(), messages.end(), [](const ChatMessage& message) {
    return (message.role == "system" || message.role == "user") && HasChinese(message.content);
  });
}

std::string Instruction(const std::vector<Json>& tools, const Words& words) {
  std::vector<std::string> descriptions;
  std::vector<std::string> names;
  for (const Json& tool : tools) {
    const Json& function = tool.at("function");
    const std::string name = StringMember(function, "name", "");
    const std::string model_name = StringMember(function, "name_for_model", name);
    const auto parameters = function.find("parameters");
    descriptions.push_back(
        absl::StrCat("### ", StringMember(function, "name_for_human", name), "\n\n", model_name,
                     ": ", StringMember(function, "description", ""), " ", words.parameters,
                     parameters == function.end() ? "{}" : ToPythonJson(*parameters), " ",
                     StringMember(function, "args_format",
                                  model_name == "code_interpreter" ? words.code : words.json)));
    names.push_back(model_name);
  }
  return absl::StrCat(words.head, absl::StrJoin(descriptions, "\n\n"), "\n\n", words.commands,
                      absl::StrJoin(names, ","), words.meanings);
}

// An assistant's turn takes in the calls, their results and what is said about them.
absl::StatusOr<std::vector<ChatMessage>> FoldTurns(const std::vector<ChatMessage>& messages) {
  const std::string reply = absl::StrCat("\n", kReply, ": ");
  std::vector<ChatMessage> folded;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const bool goes_on = !folded.empty() && folded.back().role == "assistant";
    if (message.role == "tool") {
      if (!goes_on) {
        return absl::InvalidArgumentError(absl::StrCat(
            "messages[", i, "].role: a tool's result without an assistant's call before it"));
      }
      std::string& text = folded.back().content;
      // Results that follow each other have one reply.
      if (absl::EndsWith(text, reply)) text.resize(text.size() - reply.size());
      absl::StrAppend(&text, "\n✿RESULT✿: ", message.content, reply);
      continue;
    }
    if (message.role != "assistant") {
      folded.push_back(message);
      continue;
    }
    if (!goes_on) {
      folded.push_back({.role = "assistant", .reasoning_content = message.reasoning_content});
    }
    std::string& text = folded.back().content;
    text.append(message.content);
    for (const ToolCall& call : message.tool_calls) {
      absl::StrAppend(&text, text.empty() ? "" : "\n", "✿FUNCTION✿: ", call.name,
                      "\n✿ARGS✿: ", call.arguments.empty() ? "{}" : call.arguments);
    }
  }
  return folded;
}

}  // namespace

std::string ForcedFlowerCall(const std::string& name) {
  return name.empty() ? "✿FUNCTION✿:" : absl::StrCat("✿FUNCTION✿: ", name, "\n✿ARGS✿:");
}

absl::StatusOr<FoldedChat> FoldFlower(const std::vector<ChatMessage>& messages,
                                      const std::vector<Json>& tools, const ChatOptions& options,
                                      const char* default_system) {
  FoldedChat folded;
  auto turns = FoldTurns(messages);
  if (!turns.ok()) return turns.status();
  folded.messages = *std::move(turns);
  if (!tools.empty()) {
    if (folded.messages[0].role != "system") {
      folded.messages.insert(
          folded.messages.begin(),
          {.role = "system", .content = default_system == nullptr ? "" : default_system});
    }
    std::string& system = folded.messages[0].content;
    absl::StrAppend(&system, system.empty() ? "" : "\n\n",
                    Instruction(tools, IsChinese(messages) ? kChinese : kEnglish));
  }
  folded.open = options.continue_final_message;
  if (messages.back().role == "tool") {
    // The ": " is left to the model, which may write it as one token with what follows.
    std::string& text = folded.messages.back().content;
    text.resize(text.size() - 2);
    folded.open = true;
  }
  if (options.forced_call.has_value()) {
    if (folded.open) {
      folded.messages.back().content.append(": \n");
    } else {
      folded.messages.push_back({.role = "assistant"});
    }
    folded.messages.back().content.append(ForcedFlowerCall(*options.forced_call));
    folded.open = true;
  }
  return folded;
}

}  // namespace qwenserve
