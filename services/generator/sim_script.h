#ifndef QWENSERVE_SERVICES_GENERATOR_SIM_SCRIPT_H_
#define QWENSERVE_SERVICES_GENERATOR_SIM_SCRIPT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/base/json_reader.h"
#include "engine/tokenizer/tokenizer.h"

namespace qwenserve {

enum class SimFault { kNone, kCrash, kHang, kNumeric, kRefuse };

// What a simulated replica does with a prompt. README.md, "Scripts", has the JSON.
struct SimRule {
  std::string when;             // text that the prompt contains; empty = any prompt
  bool has_answer = false;      // else the answer is hashed words
  std::vector<int32_t> answer;  // then the end
  int64_t length = -1;          // >= 0: so many hashed words, then the end
  absl::Duration delay;         // of the first step that works on it
  absl::Duration step_delay;    // of every step that works on it
  SimFault fault = SimFault::kNone;
  int64_t after = -1;  // tokens of the answer before the fault; -1: when it is first worked on
  int64_t times = -1;  // how often the fault strikes, -1 = always; afterwards there is none
};

// Reads a script: a list of rules, of which the first one that fits a prompt counts. Errors name
// `path`, the rule and the field.
absl::StatusOr<std::vector<SimRule>> ReadSimScript(const std::string& path,
                                                   const Tokenizer& tokenizer);
absl::StatusOr<std::vector<SimRule>> ParseSimScript(const Json& json, absl::string_view source,
                                                    const Tokenizer& tokenizer);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_SIM_SCRIPT_H_
