#include "engine/tokenizer/chat_template.h"

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

absl::Status BadField(absl::string_view field, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
}

absl::Status CheckMessage(const ChatMessage& message, const std::string& field, bool tools) {
  const bool assistant = message.role == "assistant";
  if (message.role == "tool") {
    if (!tools) return BadField(field + ".role", "this chat template has no tools");
  } else if (message.role != "system" && message.role != "user" && !assistant) {
    return BadField(field + ".role",
                    absl::StrCat("\"", message.role, "\" is not system, user, assistant or tool"));
  }
  if (message.tool_calls.empty()) return absl::OkStatus();
  if (!assistant) return BadField(field + ".tool_calls", "only an assistant calls tools");
  if (!tools) return BadField(field + ".tool_calls", "this chat template has no tools");
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
  if (!options.tools.empty() && !tools) return BadField("tools", "this chat template has no tools");
  if (!options.continue_final_message) return absl::OkStatus();
  if (messages.back().role != "assistant" || !messages.back().tool_calls.empty()) {
    return BadField("continue_final_message",
                    "the last message is not an assistant's text that could go on");
  }
  return absl::OkStatus();
}

absl::Status CheckThinking(const ChatOptions& options, Thinking thinking) {
  if (!options.enable_thinking.has_value()) return absl::OkStatus();
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

struct ChatTemplate::Format {
  const char* name;
  bool qwen1;
  ChatMlRules rules;  // of Qwen1 only what the checks above ask

  static const std::array<Format, 7>& All() {
    static constexpr std::array<Format, 7> kFormats = {{
        {"qwen1", true, {"You are a helpful assistant.", true, Thinking::kNever}},
        {"qwen1.5", false, {"You are a helpful assistant", false, Thinking::kNever}},
        {"qwen2", false, {"You are a helpful assistant.", false, Thinking::kNever}},
        {"qwen2.5",
         false,
         {"You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", true,
          Thinking::kNever}},
        {"qwen3", false, {nullptr, true, Thinking::kSwitch}},
        {"qwen3-instruct-2507", false, {nullptr, true, Thinking::kNever}},
        {"qwen3-thinking-2507", false, {nullptr, true, Thinking::kAlways}},
    }};
    return kFormats;
  }
};

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
  QS_RETURN_IF_ERROR(CheckMessages(messages, options, format_->rules.tools));
  QS_RETURN_IF_ERROR(CheckThinking(options, format_->rules.thinking));
  QS_ASSIGN_OR_RETURN(const std::vector<Json> tools, ParseTools(options.tools));
  PromptBuilder prompt;
  QS_RETURN_IF_ERROR(format_->qwen1
                         ? RenderQwen1(messages, tools, options, &prompt)
                         : RenderChatMl(format_->rules, messages, tools, options, &prompt));
  return prompt.Take();
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
