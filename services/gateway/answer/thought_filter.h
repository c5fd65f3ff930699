#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_THOUGHT_FILTER_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_THOUGHT_FILTER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "services/gateway/answer/tag_matcher.h"

namespace qwenserve {

// Takes the labels of ReAct off the text around its calls, piece by piece:
//   Thought: T, then a call             T is text, as clients send it back with the call
//   Thought: T\nFinal Answer: A         T is reasoning, A is text
//   Thought: T and nothing else         text, label included
// A thought waits until it is known which; everything else passes at once. The result does not
// depend on where the pieces are cut. Not thread-safe.
class ThoughtFilter {
 public:
  // `opened`: the prompt ends with the label "Thought:".
  explicit ThoughtFilter(bool opened);

  void Push(absl::string_view piece, std::string* reasoning, std::string* text);
  // What was pushed is followed by a call.
  void OnCall(std::string* text);
  void Finish(std::string* text);

 private:
  enum class State { kLabel, kThought, kBreak, kText };

  void TakeLabel(std::string* text);

  State state_;
  const bool opened_;
  std::string held_;
  TagMatcher answer_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_THOUGHT_FILTER_H_
