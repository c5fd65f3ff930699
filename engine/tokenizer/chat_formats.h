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

// The prompt formats behind chat_template.h. All expect messages that CheckMessages has passed.

// What differs between the ChatML templates from Qwen1.5 on.
struct ChatMlRules {
  enum class Thinking {
    kNever,
    kSwitch,  // on unless enable_thinking is false
    kAlways,
  };

  const char* default_system;  // nullptr: no system turn unless the conversation has one
  Thinking thinking;
};

// Writes tools, calls and results as Hermes does where there are any.
// Source: the chat_template of the models' tokenizer_config.json.
void RenderChatMl(const ChatMlRules& rules, const std::vector<ChatMessage>& messages,
                  const std::vector<Json>& tools, const ChatOptions& options,
                  PromptBuilder* prompt);

// Without tools, calls and results.
// Source: make_context of the model's own code.
absl::Status RenderQwen1(const std::vector<ChatMessage>& messages, const ChatOptions& options,
                         PromptBuilder* prompt);

// A conversation with its tools, calls and results written into the messages' texts.
struct FoldedChat {
  std::vector<ChatMessage> messages;
  // The model goes on inside the last message, an assistant's.
  bool open = false;
};

// Source: the ReAct prompt of openai_api.py in QwenLM/Qwen.
absl::StatusOr<FoldedChat> FoldReAct(const std::vector<ChatMessage>& messages,
                                     const std::vector<Json>& tools, const ChatOptions& options);

// `default_system` may be nullptr. The prompt is in Chinese where the system or the user writes
// Chinese.
// Source: qwen_fncall_prompt.py in QwenLM/Qwen-Agent, without its prompt for parallel calls.
absl::StatusOr<FoldedChat> FoldFlower(const std::vector<ChatMessage>& messages,
                                      const std::vector<Json>& tools, const ChatOptions& options,
                                      const char* default_system);

// `key` of a function's description, or `fallback`.
std::string StringMember(const Json& function, const char* key, const std::string& fallback);

// What a prompt that forces a call writes of it.
std::string ForcedHermesCall(const std::string& name);  // behind <tool_call>
std::string ForcedReActCall(const std::string& name);   // behind "Thought:"
std::string ForcedFlowerCall(const std::string& name);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_CHAT_FORMATS_H_
