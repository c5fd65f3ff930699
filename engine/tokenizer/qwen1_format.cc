#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/tokenizer/chat_formats.h"

namespace qwenserve {
namespace {

constexpr char kDefaultSystem[] = "You are a helpful assistant.";

void WriteTurn(absl::string_view role, absl::string_view text, PromptBuilder* prompt) {
  prompt->Control("<|im_start|>");
  prompt->Piece(role);
  prompt->Piece("\n");
  prompt->Piece(text);
}

}  // namespace

absl::Status RenderQwen1(const std::vector<ChatMessage>& messages, const ChatOptions& options,
                         PromptBuilder* prompt) {
  const bool has_system = messages[0].role == "system";
  const auto is_user = [](const ChatMessage& message) { return message.role == "user"; };
  if (std::none_of(messages.begin(), messages.end(), is_user)) {
    return absl::InvalidArgumentError("messages: no message of the user");
  }
  WriteTurn("system", has_system ? messages[0].content : kDefaultSystem, prompt);
  prompt->Control("<|im_end|>");
  for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    if (messages[i].role == "system") {
      return absl::InvalidArgumentError(
          absl::StrCat("messages[", i, "].role: system is possible at the start only"));
    }
    prompt->Piece("\n");
    WriteTurn(messages[i].role, messages[i].content, prompt);
    const bool open = options.continue_final_message && i + 1 == messages.size();
    if (!open) prompt->Control("<|im_end|>");
  }
  if (options.add_generation_prompt && !options.continue_final_message) {
    prompt->Piece("\n");
    WriteTurn("assistant", "", prompt);
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
