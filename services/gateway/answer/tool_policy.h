#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_TOOL_POLICY_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_TOOL_POLICY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace qwenserve {

// What a request says about tool calls, for the one who reads the answer.
struct ToolPolicy {
  // Functions that the model may ask for; empty: everything in the answer is text.
  std::vector<std::string> names;
  // The answer ends with its first complete call.
  bool single_call = false;
  // A call is reported when all of it is there and found well-formed, else not at all. Otherwise
  // as soon as it has a name, and its arguments as they come.
  bool whole_calls = false;
  // Ids of calls are made from it, the number of the answer and that of the call, so that a
  // request that is repeated gives the ids that it gave before.
  std::string id_seed;

  bool allowed() const { return !names.empty(); }
};

// For ToolPolicy.id_seed: equal for a repetition of the request, different for all others.
std::string ToolCallIdSeed(uint64_t seed, const uint32_t* prompt_ids, size_t size);

// "call_" and 24 hexadecimal digits.
std::string ToolCallId(absl::string_view id_seed, uint32_t choice, uint32_t call);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_TOOL_POLICY_H_
