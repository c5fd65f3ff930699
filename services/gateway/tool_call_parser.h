#ifndef QWENSERVE_SERVICES_GATEWAY_TOOL_CALL_PARSER_H_
#define QWENSERVE_SERVICES_GATEWAY_TOOL_CALL_PARSER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "qwenserve/v1/inference.pb.h"

namespace qwenserve {

// Finds the tool calls of Qwen 2.5 and 3 in an answer that arrives in pieces:
//   <tool_call>
//   {"name": ..., "arguments": {...}}
//   </tool_call>
// A call is reported whole, when its closing tag is there (or at the end of the answer). What is
// between the tags but is no such object stays in the text, tags included: the client sees what
// the model wrote. White space next to a call's tags belongs to the call. Not thread-safe.
class ToolCallParser {
 public:
  explicit ToolCallParser(bool enabled) : enabled_(enabled) {}

  // Appends to both what is certain by now.
  void Push(absl::string_view piece, std::string* text, std::vector<v1::ToolCallDelta>* calls);
  // There is no more text.
  void Finish(std::string* text, std::vector<v1::ToolCallDelta>* calls);

  uint32_t num_calls() const { return num_calls_; }

 private:
  void FindOpen(std::string* text);
  bool FindClose(std::string* text, std::vector<v1::ToolCallDelta>* calls);
  void EmitCall(v1::ToolCallDelta call, std::vector<v1::ToolCallDelta>* calls);

  const bool enabled_;
  bool inside_ = false;
  bool after_call_ = false;
  // Outside: white space or a part of the tag. Inside: what follows the opening tag.
  std::string held_;
  // No closing tag begins before this byte of `held_`.
  size_t searched_ = 0;
  // White space before the opening tag, for the case that it was text after all.
  std::string before_;
  uint32_t num_calls_ = 0;
};

// The call that `body`, the text between the tags, describes; nullopt when it is no JSON object
// with a string `name`, or its `arguments` are there and no object. The arguments are returned as
// they stand in `body`.
std::optional<v1::ToolCallDelta> ParseToolCall(absl::string_view body);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_TOOL_CALL_PARSER_H_
