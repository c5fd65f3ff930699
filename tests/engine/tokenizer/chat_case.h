#ifndef QWENSERVE_TESTS_ENGINE_TOKENIZER_CHAT_CASE_H_
#define QWENSERVE_TESTS_ENGINE_TOKENIZER_CHAT_CASE_H_

#include <string>
#include <vector>

#include "engine/base/json_reader.h"
#include "engine/tokenizer/chat_template.h"

namespace qwenserve {

// A conversation in the JSON of the OpenAI API, as the golden files have it: {"messages", "tools",
// "add_generation_prompt", "enable_thinking", "continue_final_message"}.
std::vector<ChatMessage> ChatMessagesFrom(const Json& chat);
ChatOptions ChatOptionsFrom(const Json& chat);

// The rendered prompt as one text.
std::string Text(const std::vector<Segment>& segments);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_TOKENIZER_CHAT_CASE_H_
