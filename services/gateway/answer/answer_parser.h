#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_ANSWER_PARSER_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_ANSWER_PARSER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "qwenserve/v1/inference.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"
#include "services/gateway/answer/reasoning_parser.h"
#include "services/gateway/answer/thought_filter.h"
#include "services/gateway/answer/tool_call_parser.h"

namespace qwenserve {

// What one choice has for its client since the last message.
struct AnswerDelta {
  uint32_t choice = 0;
  uint32_t first_token_index = 0;
  std::string text;
  std::string reasoning;
  std::vector<v1::ToolCallDelta> tool_calls;
  std::vector<uint32_t> token_ids;
  std::vector<v1::TokenLogprob> logprobs;  // one per token id, when asked for
  uint32_t first_prompt_index = 0;         // of prompt_logprobs[0]
  std::vector<v1::TokenLogprob> prompt_logprobs;

  bool empty() const {
    return text.empty() && reasoning.empty() && tool_calls.empty() && token_ids.empty() &&
           prompt_logprobs.empty();
  }
};

// Splits the text of an answer into reasoning, text and tool calls, as its chat template writes
// them. Independent of where the pieces are cut. Not thread-safe.
class AnswerParser {
 public:
  // With an empty `format` and no `tools` everything is text.
  AnswerParser(const v1::AnswerFormat& format, std::shared_ptr<const ToolPolicy> tools,
               uint32_t choice);

  void Push(absl::string_view piece, AnswerDelta* delta);
  void Finish(AnswerDelta* delta);

  bool in_reasoning() const { return reasoning_.in_reasoning(); }
  // There are calls, and the arguments of each are a JSON object.
  bool has_tool_calls() const { return tools_.num_calls() > 0 && tools_.AllComplete(); }
  // The request wants no more than there is.
  bool ended() const { return tools_.ended(); }

 private:
  void PushAnswer(absl::string_view answer, AnswerDelta* delta);

  ReasoningParser reasoning_;
  ToolCallParser tools_;
  std::optional<ThoughtFilter> thoughts_;
  // Characters of ": " that may still stand at the beginning: the prompt ends with a label to
  // which they belong.
  absl::string_view label_rest_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_ANSWER_PARSER_H_
