#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_JSON_TEXT_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_JSON_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"

namespace qwenserve {

// JSON written straight into a buffer that is reused: an answer has one event per token, and a tree
// of objects for each would cost more than the rest of the way.

// `text` with quotes. It must be UTF-8; use ReplaceInvalidUtf8 for what may not be.
void AppendJsonString(absl::string_view text, std::string* out);
// A logarithm: -infinity, which JSON does not know, becomes -9999.
void AppendLogprob(float value, std::string* out);

// Each byte that is not part of a UTF-8 character becomes U+FFFD.
std::string ReplaceInvalidUtf8(absl::string_view bytes);
bool IsValidUtf8(absl::string_view bytes);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_JSON_TEXT_H_
