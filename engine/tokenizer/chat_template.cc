#include "engine/tokenizer/chat_template.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/chat_formats.h"
#include "engine/tokenizer/prompt_builder.h"

namespace qwenserve {
namespace {

using Thinking = ChatMlRules::Thinking;

constexpr char kNoTools[] = "this chat template has no tools; see --tool-format";

absl::Status BadField(absl::string_view field, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
}

absl::Status CheckMessage(const ChatMessage& message, const std::string& field, bool tools) {
  const bool assistant = message.role == "assistant";
  if (message.role == "tool") {
    if (!tools) return BadField(field + ".role", kNoTools);
  } else if (message.role != "system" && message.role != "user" && !assistant) {
    return BadField(field + ".role",
                    absl::StrCat("\"", message.role, "\" is not system, user, assistant or tool"));
  }
  if (message.tool_calls.empty()) return absl::OkStatus();
  if (!assistant) return BadField(field + ".tool_calls", "only an assistant calls tools");
  if (!tools) return BadField(field + ".tool_calls", kNoTools);
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    if (message.tool_calls[i].name.empty()) {
      return BadField(absl::StrCat(field, ".tool_calls[", i, "].name"), "empty");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMessages(const std::vector<ChatMessage>& messages, const ChatOptions& options,
                           bool tools) {
  if (messages.empty()) return BadField("messages", "empty");
  for (size_t i = 0; i < messages.size(); ++i) {
    QS_RETURN_IF_ERROR(CheckMessage(messages[i], absl::StrCat("messages[", i, "]"), tools));
  }
  if (!options.tools.empty() && !tools) return BadField("tools", kNoTools);
  if (options.forced_call.has_value()) {
    if (options.continue_final_message || !options.add_generation_prompt) {
      return BadField("tool_choice", "asks for a call where no new answer begins");
    }
    if (options.tools.empty()) return BadField("tool_choice", "asks for a call without tools");
  }
  if (!options.continue_final_message) return absl::OkStatus();
  if (messages.back().role != "assistant" || !messages.back().tool_calls.empty()) {
    return BadField("continue_final_message",
                    "the last message is not an assistant's text that could go on");
  }
  return absl::OkStatus();
}

absl::Status CheckThinking(const ChatOptions& options, Thinking thinking) {
  if (!options.enable_thinking.has_value()) return absl::OkStatus();
  if (*options.enable_thinking && options.forced_call.has_value()) {
    return BadField("enable_thinking", "a call that is asked for leaves no room for thinking");
  }
  if (*options.enable_thinking && thinking == Thinking::kNever) {
    return BadField("enable_thinking", "this chat template has no thinking mode");
  }
  if (!*options.enable_thinking && thinking == Thinking::kAlways) {
    return BadField("enable_thinking", "this chat template always thinks");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Json>> ParseTools(const std::vector<std::string>& tools) {
  std::vector<Json> parsed;
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string field = absl::StrCat("tools[", i, "]");
    QS_ASSIGN_OR_RETURN(Json tool, ParseJson(tools[i], field));
    const auto function = tool.is_object() ? tool.find("function") : tool.end();
    if (function == tool.end() || !function->is_object()) {
      return BadField(field, "no object named \"function\"");
    }
    const auto name = function->find("name");
    if (name == function->end() || !name->is_string() ||
        name->get_ref<const std::string&>().empty()) {
      return BadField(field + ".function.name", "not a name");
    }
    parsed.push_back(std::move(tool));
  }
  return parsed;
}

}  // namespace

std::string StringMember(const Json& function, const char* key, const std::string& fallback) {
  const auto it = function.find(key);
  return it != function.end() && it->is_string() ? it->get<std::string>() : fallback;
}

struct ChatTemplate::Format {
  const char* name;
  bool qwen1;
  ToolFormat tools;
  ChatMlRules rules;

  static const std::array<Format, 7>& All() {
    static constexpr std::array<Format, 7> kFormats = {{
        {"qwen1", true, ToolFormat::kReAct, {"You are a helpful assistant.", Thinking::kNever}},
        {"qwen1.5", false, ToolFormat::kReAct, {"You are a helpful assistant", Thinking::kNever}},
        {"qwen2", false, ToolFormat::kFlower, {"You are a helpful assistant.", Thinking::kNever}},
        {"qwen2.5",
         false,
         ToolFormat::kHermes,
         {"You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
          Thinking::kNever}},
        {"qwen3", false, ToolFormat::kHermes, {nullptr, Thinking::kSwitch}},
        {"qwen3-instruct-2507", false, ToolFormat::kHermes, {nullptr, Thinking::kNever}},
        {"qwen3-thinking-2507", false, ToolFormat::kHermes, {nullptr, Thinking::kAlways}},
    }};
    return kFormats;
  }
};

ChatTemplate::ChatTemplate(const Format* format) : format_(format), tool_format_(format->tools) {}

absl::StatusOr<ChatTemplate> ChatTemplate::WithToolFormat(absl::string_view name) const {
  ChatTemplate result = *this;
  if (name == "auto") {
    result.tool_format_ = format_->tools;
  } else if (name == "hermes" && !format_->qwen1) {
    result.tool_format_ = ToolFormat::kHermes;
  } else if (name == "react") {
    result.tool_format_ = ToolFormat::kReAct;
  } else if (name == "flower") {
    result.tool_format_ = ToolFormat::kFlower;
  } else if (name == "none") {
    result.tool_format_ = ToolFormat::kNone;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("no tool format \"", name, "\" for the chat template ", format_->name));
  }
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::ByName(absl::string_view name) {
  std::vector<absl::string_view> names;
  for (const Format& format : Format::All()) {
    if (name == format.name) return ChatTemplate(&format);
    names.push_back(format.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no chat template \"", name, "\"; there are ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<std::vector<Segment>> ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                                          const ChatOptions& options) const {
  QS_RETURN_IF_ERROR(CheckMessages(messages, options, tool_format_ != ToolFormat::kNone));
  QS_RETURN_IF_ERROR(CheckThinking(options, format_->rules.thinking));
  QS_ASSIGN_OR_RETURN(const std::vector<Json> tools, ParseTools(options.tools));
  PromptBuilder prompt;
  if (!Folds(messages, options)) {
    QS_RETURN_IF_ERROR(RenderTurns(messages, tools, options, &prompt));
    return prompt.Take();
  }
  QS_ASSIGN_OR_RETURN(const FoldedChat folded,
                      tool_format_ == ToolFormat::kReAct
                          ? FoldReAct(messages, tools, options)
                          : FoldFlower(messages, tools, options, format_->rules.default_system));
  ChatOptions plain = options;
  plain.forced_call.reset();
  plain.continue_final_message = folded.open;
  QS_RETURN_IF_ERROR(RenderTurns(folded.messages, {}, plain, &prompt));
  return prompt.Take();
}

bool ChatTemplate::Folds(const std::vector<ChatMessage>& messages,
                         const ChatOptions& options) const {
  if (tool_format_ != ToolFormat::kReAct && tool_format_ != ToolFormat::kFlower) return false;
  return !options.tools.empty() ||
         std::any_of(messages.begin(), messages.end(), [](const ChatMessage& message) {
           return message.role == "tool" || !message.tool_calls.empty();
         });
}

absl::Status ChatTemplate::RenderTurns(const std::vector<ChatMessage>& messages,
                                       const std::vector<Json>& tools, const ChatOptions& options,
                                       PromptBuilder* prompt) const {
  if (format_->qwen1) return RenderQwen1(messages, options, prompt);
  RenderChatMl(format_->rules, messages, tools, options, prompt);
  return absl::OkStatus();
}

std::string ChatTemplate::AnswerOpening(const std::vector<ChatMessage>& messages,
                                        const ChatOptions& options) const {
  const bool result_last = messages.back().role == "tool";
  switch (tool_format_) {
    case ToolFormat::kNone:
      return "";
    case ToolFormat::kHermes:
      if (!options.forced_call.has_value()) return "";
      return "<tool_call>" + ForcedHermesCall(*options.forced_call);
    case ToolFormat::kReAct:
      if (!options.forced_call.has_value()) return result_last ? "Thought:" : "";
      return "Thought:" + ForcedReActCall(*options.forced_call);
    case ToolFormat::kFlower:
      if (!options.forced_call.has_value()) return result_last ? "✿RETURN✿" : "";
      return ForcedFlowerCall(*options.forced_call);
  }
  return "";
}

absl::string_view ChatTemplate::name() const { return format_->name; }

bool ChatTemplate::OutputStartsInReasoning() const {
  return format_->rules.thinking == Thinking::kAlways;
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer,
                                                const std::vector<Segment>& segments) {
  std::vector<int32_t> ids;
  std::string text;   // of the piece that is not encoded yet
  bool glue = false;  // the next text continues it
  const auto flush = [&]() -> absl::Status {
    QS_ASSIGN_OR_RETURN(const std::vector<int32_t> piece, tokenizer.Encode(text));
    ids.insert(ids.end(), piece.begin(), piece.end());
    text.clear();
    return absl::OkStatus();
  };
  for (const Segment& segment : segments) {
    if (segment.kind == Segment::Kind::kText) {
      if (!glue) QS_RETURN_IF_ERROR(flush());
      text.append(segment.text);
      glue = false;
      continue;
    }
    const std::optional<int32_t> id = tokenizer.SpecialTokenId(segment.text);
    if (id.has_value()) {
      QS_RETURN_IF_ERROR(flush());
      ids.push_back(*id);
      glue = false;
    } else if (segment.kind == Segment::Kind::kMarkup) {
      text.append(segment.text);
      glue = true;
    } else {
      return absl::FailedPreconditionError(
          absl::StrCat("the chat template needs the token ", segment.text,
                       ", which the tokenizer does not have; see --chat-template"));
    }
  }
  QS_RETURN_IF_ERROR(flush());
  return ids;
}

}  // namespace qwenserve
