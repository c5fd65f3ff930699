#ifndef QWENSERVE_ENGINE_TOKENIZER_CHAT_FORMATS_H_
#define QWENSERVE_ENGINE_TOKENIZER_CHAT_FORMATS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/json_reader.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/prompt_builder.h"

namespace qwenserve {

// The two prompt formats behind chat_template.h. Both expect messages that CheckMessages has
// passed.

// What differs between the ChatML templates from Qwen1.5 on.
struct ChatMlRules {
  enum class Thinking {
    kNever,
    kSwitch,  // on unless enable_thinking is false
    kAlways,
  };

  const char* default_system;  // nullptr: no system turn unless the conversation has one
  bool tools;                  // has a format for tools, calls and their results
  Thinking thinking;
};

// Source: the chat_template of the models' tokenizer_config.json.
absl::Status RenderChatMl(const ChatMlRules& rules, const std::vector<ChatMessage>& messages,
                          const std::vector<Json>& tools, const ChatOptions& options,
                          PromptBuilder* prompt);

// Source: make_context of the model's own code and, for conversations with tools, the ReAct
// prompt of openai_api.py in QwenLM/Qwen.
absl::Status RenderQwen1(const std::vector<ChatMessage>& messages, const std::vector<Json>& tools,
                         const ChatOptions& options, PromptBuilder* prompt);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_CHAT_FORMATS_H_
