#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_TOOL_CALL_PARSER_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_TOOL_CALL_PARSER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "qwenserve/v1/inference.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"
#include "services/gateway/answer/json_scanner.h"
#include "services/gateway/answer/tag_matcher.h"
#include "services/gateway/answer/tool_policy.h"

namespace qwenserve {

// Finds the tool calls in an answer that arrives in pieces, in the three ways that Qwen models
// write them:
//   <tool_call>\n{"name": NAME, "arguments": {...}}\n</tool_call>      Qwen 2.5 and 3
//   \nAction: NAME\nAction Input: {...}                                ReAct: Qwen 1 and 1.5
//   ✿FUNCTION✿: NAME\n✿ARGS✿: {...}                                    Qwen 2
//
// A call begins where its opening is read, its name is that of a function of the request and its
// arguments open an object. Whatever only looks like a call stays in the text as the model wrote
// it. White space next to a call belongs to the call.
//
// Arguments are reported byte for byte as the model wrote them. Where they stop being JSON after
// the call was reported, the rest up to the call's end still belongs to them, so that nothing is
// lost, and AllComplete() turns false; with ToolPolicy.whole_calls such a call is text instead.
//
// The result does not depend on where the pieces are cut. Linear in the answer. Not thread-safe.
class ToolCallParser {
 public:
  // Without a format, without a policy or with no function in it everything is text.
  ToolCallParser(v1::AnswerFormat::ToolCallFormat format, std::shared_ptr<const ToolPolicy> policy,
                 uint32_t choice);

  // Appends to both what is certain by now.
  void Push(absl::string_view piece, std::string* text, std::vector<v1::ToolCallDelta>* calls);
  // There is no more text.
  void Finish(std::string* text, std::vector<v1::ToolCallDelta>* calls);

  uint32_t num_calls() const { return num_calls_; }
  // The arguments of every call reported so far are complete JSON objects.
  bool AllComplete() const { return num_complete_ == num_calls_; }
  // The policy asks for one call, and here it was: what follows is ignored.
  bool ended() const { return ended_; }

 private:
  enum class State {
    kText,
    kName,    // behind the opening, up to the separator: formats that have one
    kBody,    // the JSON object
    kBroken,  // reported, but no JSON any more: up to the end of the call
    kAfter,   // complete, up to the end of the call
  };

  void Feed(char c);
  void FeedText(char c);
  void FeedName(char c);
  void FeedBody(char c);
  void FeedBroken(char c);
  void FeedAfter(char c);

  void OpenCall();
  // What a byte of the object means where the object has the name inside; false: it is no call.
  bool OnMember(JsonScanner::Event event, char c);
  bool TakeName();
  // `c` cannot belong to the JSON object.
  void FailBody(char c);
  // From here on it is a call, for good.
  void Commit();
  void Complete();
  bool Known(absl::string_view name) const;
  void AddArguments(absl::string_view piece);
  // It was no call.
  void Degrade();
  void Text(absl::string_view text);

  std::shared_ptr<const ToolPolicy> policy_;
  uint32_t choice_ = 0;
  bool enabled_ = false;
  bool name_inside_ = false;  // of the object
  TagMatcher open_{""};
  TagMatcher separator_{""};
  TagMatcher close_{""};

  // Where the output of the Push under way goes.
  std::string* text_ = nullptr;
  std::vector<v1::ToolCallDelta>* calls_ = nullptr;

  State state_ = State::kText;
  // Outside: white space, then a part of the opening. At first, and behind a call, white space is
  // dropped when text follows.
  std::string held_;
  bool trim_ = false;

  // Of the call under way. All of it from its opening on, until it is certain to be one.
  std::string raw_;
  std::string before_;  // white space before it
  JsonScanner scanner_;
  std::optional<std::string> name_;
  std::string key_;
  std::string arguments_;  // until they are reported
  bool in_arguments_ = false;
  bool arguments_done_ = false;
  bool committed_ = false;
  // What follows the arguments and may belong to the call.
  std::string tail_;

  uint32_t num_calls_ = 0;
  uint32_t num_complete_ = 0;
  bool ended_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_TOOL_CALL_PARSER_H_
