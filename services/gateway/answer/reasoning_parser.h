#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_REASONING_PARSER_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_REASONING_PARSER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "services/gateway/answer/tag_matcher.h"

namespace qwenserve {

// Tells a Qwen3 answer's <think>...</think> from what follows, piece by piece. The tags and the
// line breaks next to them belong to neither; a <think> later in the answer is plain text.
// The result does not depend on where the pieces are cut. Linear in the answer. Not thread-safe.
class ReasoningParser {
 public:
  // Without `may_reason` everything is answer. `starts_in_reasoning`: the prompt has the <think>.
  ReasoningParser(bool may_reason, bool starts_in_reasoning);

  // Appends to both what is certain by now.
  void Push(absl::string_view piece, std::string* reasoning, std::string* answer);
  // There is no more text.
  void Finish(std::string* reasoning, std::string* answer);

  bool in_reasoning() const { return state_ == State::kReasoning; }

 private:
  enum class State {
    kBegin,         // only white space so far, or a part of <think>
    kReasoning,     // up to </think>
    kAnswerBreaks,  // line breaks behind </think>
    kAnswer,
  };

  void Begin(char c, std::string* answer);
  void Reason(char c, std::string* reasoning);

  State state_;
  bool reasoning_has_text_ = false;
  // White space, then a part of the tag that is looked for.
  std::string held_;
  TagMatcher open_;
  TagMatcher close_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_REASONING_PARSER_H_
