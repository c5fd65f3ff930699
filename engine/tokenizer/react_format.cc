#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/chat_formats.h"
#include "engine/tokenizer/python_json.h"
#include "engine/tokenizer/unicode.h"

namespace qwenserve {
namespace {

struct Turn {
  bool user;  // else the assistant
  std::string text;
};

absl::Status BadRole(size_t index, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("messages[", index, "].role: ", problem));
}

// Start of the last character of `text`, which is not empty. Text need not be valid UTF-8 yet.
const char* LastCharacter(absl::string_view text) {
  const char* p = text.data() + text.size() - 1;
  while (p != text.data() && (static_cast<unsigned char>(*p) & 0xC0) == 0x80) --p;
  return p;
}

// Python's text.lstrip("\n").rstrip().
absl::string_view Strip(absl::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  while (!text.empty()) {
    const char* const last = LastCharacter(text);
    const Utf8Step step = ReadUtf8(last, text.data() + text.size());
    if (step.kind != Utf8Step::Kind::kValid) break;
    const CharClass char_class = UnicodeTable::Get().Class(step.code);
    // str.rstrip() counts the four separators of ASCII as white space too.
    const bool space = char_class == CharClass::kSpace || char_class == CharClass::kNewline ||
                       (step.code >= 0x1C && step.code <= 0x1F);
    if (!space) break;
    text = text.substr(0, static_cast<size_t>(last - text.data()));
  }
  return text;
}

std::string ReActInstruction(const std::vector<Json>& tools) {
  std::vector<std::string> descriptions;
  std::vector<std::string> names;
  for (const Json& tool : tools) {
    const Json& function = tool.at("function");
    const std::string name = StringMember(function, "name", "");
    const std::string model_name = StringMember(function, "name_for_model", name);
    const std::string human_name = StringMember(function, "name_for_human", name);
    const std::string description =
        StringMember(function, "description_for_model", StringMember(function, "description", ""));
    const auto parameters = function.find("parameters");
    descriptions.push_back(absl::StrCat(
        model_name, ": Call this tool to interact with the ", human_name, " API. What is the ",
        human_name, " API useful for? ", description,
        " Parameters: ", parameters == function.end() ? "{}" : ToPythonJson(*parameters)));
    names.push_back(model_name);
  }
  return absl::StrCat(
      "Answer the following questions as best you can. You have access to the following APIs:\n\n",
      absl::StrJoin(descriptions, "\n\n"),
      "\n\nUse the following format:\n\n"
      "Question: the input question you must answer\n"
      "Thought: you should always think about what to do\n"
      "Action: the action to take, should be one of [",
      absl::StrJoin(names, ", "),
      "]\n"
      "Action Input: the input to the action\n"
      "Observation: the result of the action\n"
      "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
      "Thought: I now know the final answer\n"
      "Final Answer: the final answer to the original input question\n\n"
      "Begin!");
}

// One assistant message in the words of ReAct.
absl::StatusOr<std::string> ReActText(const ChatMessage& message, size_t index, bool has_tools) {
  absl::string_view content = Strip(message.content);
  const std::string reasoning = message.reasoning_content.value_or("");
  if (message.tool_calls.empty()) {
    if (!has_tools) return std::string(content);
    return absl::StrCat(
        "Thought: ", reasoning.empty() ? "I now know the final answer." : Strip(reasoning),
        "\nFinal Answer: ", content);
  }
  if (content.empty()) content = Strip(reasoning);
  if (message.tool_calls.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("messages[", index,
                                                   "].tool_calls: ", message.tool_calls.size(),
                                                   " calls where this chat template has room for "
                                                   "one per message"));
  }
  const ToolCall& call = message.tool_calls[0];
  return absl::StrCat(absl::StartsWith(content, "Thought:") ? "" : "Thought: ", content,
                      "\nAction: ", call.name, "\nAction Input: ", call.arguments);
}

// Folds calls and results into the assistant turn that they belong to.
absl::StatusOr<std::vector<Turn>> MakeTurns(const std::vector<ChatMessage>& messages, size_t first,
                                            bool has_tools) {
  std::vector<Turn> turns;
  for (size_t i = first; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == "user") {
      if (!turns.empty() && turns.back().user) return BadRole(i, "user twice in a row");
      turns.push_back({true, std::string(Strip(message.content))});
    } else if (message.role == "assistant") {
      if (turns.empty()) return BadRole(i, "the user has to speak before the assistant");
      QS_ASSIGN_OR_RETURN(const std::string text, ReActText(message, i, has_tools));
      if (turns.back().user) {
        turns.push_back({false, std::string(Strip(text))});
      } else {
        absl::StrAppend(&turns.back().text, "\n", text);
      }
    } else if (message.role == "tool") {
      if (turns.empty() || turns.back().user) {
        return BadRole(i, "a tool's result without an assistant's call before it");
      }
      absl::StrAppend(&turns.back().text, "\nObservation: ", Strip(message.content));
      // The model goes on inside this turn.
      if (i + 1 == messages.size()) turns.back().text.append("\nThought:");
    } else {
      return BadRole(i, "system is possible at the start only");
    }
  }
  return turns;
}

// The instruction goes to the last question that has an answer already, to the current one only
// when there is no such question: so the model was shown it in training.
void AddInstruction(const std::string& instruction, std::vector<Turn>* turns) {
  size_t index = turns->size() - 1;
  if (turns->back().user) {
    if (index >= 2) index -= 2;
  } else {
    index -= 1;
  }
  std::string& text = (*turns)[index].text;
  text = absl::StrCat(instruction, "\n\nQuestion: ", text);
}

}  // namespace

std::string ForcedReActCall(const std::string& name) {
  return name.empty() ? " \nAction:" : absl::StrCat(" \nAction: ", name, "\nAction Input:");
}

absl::StatusOr<FoldedChat> FoldReAct(const std::vector<ChatMessage>& messages,
                                     const std::vector<Json>& tools, const ChatOptions& options) {
  const auto is_user = [](const ChatMessage& message) { return message.role == "user"; };
  if (std::none_of(messages.begin(), messages.end(), is_user)) {
    return absl::InvalidArgumentError("messages: no message of the user");
  }
  FoldedChat folded;
  const size_t first = messages[0].role == "system" ? 1 : 0;
  if (first == 1) {
    folded.messages.push_back(
        {.role = "system", .content = std::string(Strip(messages[0].content))});
  }
  QS_ASSIGN_OR_RETURN(std::vector<Turn> turns, MakeTurns(messages, first, !tools.empty()));
  if (!tools.empty()) AddInstruction(ReActInstruction(tools), &turns);
  folded.open = options.continue_final_message || messages.back().role == "tool";
  if (options.forced_call.has_value()) {
    if (!folded.open) turns.push_back({false, "Thought:"});
    turns.back().text.append(ForcedReActCall(*options.forced_call));
    folded.open = true;
  }
  for (Turn& turn : turns) {
    folded.messages.push_back(
        {.role = turn.user ? "user" : "assistant", .content = std::move(turn.text)});
  }
  return folded;
}

}  // namespace qwenserve
