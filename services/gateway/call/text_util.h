#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_TEXT_UTIL_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_TEXT_UTIL_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// Length of the longest proper prefix of `tag` with which `text` ends.
inline size_t PartialSuffix(absl::string_view text, absl::string_view tag) {
  for (size_t length = std::min(text.size(), tag.size() - 1); length > 0; --length) {
    if (absl::EndsWith(text, tag.substr(0, length))) return length;
  }
  return 0;
}

// `prefix` and 128 random bits in hexadecimal.
std::string RandomId(absl::string_view prefix);

// For requests without one. Below 2^53: clients in languages whose numbers are doubles can repeat
// it exactly.
uint64_t DrawSeed();

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_TEXT_UTIL_H_
