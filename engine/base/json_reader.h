#ifndef QWENSERVE_ENGINE_BASE_JSON_READER_H_
#define QWENSERVE_ENGINE_BASE_JSON_READER_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace qwenserve {

// Keeps the keys in the order of the text: a tool's JSON schema must reach the model as written.
using Json = nlohmann::ordered_json;

// For messages, which must stay one short line whatever a file holds: a value as JSON in ASCII, and
// text such as a key with its control characters escaped; both cut behind about 120 bytes.
std::string ShownJson(const Json& value);
std::string ShownText(absl::string_view text);

// The only way JSON enters the project. Never throws. INVALID_ARGUMENT, naming `source` (a file or
// a request field) and the byte offset, for malformed text, nesting deeper than 64, a key that
// occurs twice in one object, or invalid UTF-8.
absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view source);

// Reads and parses a whole regular file. NOT_FOUND, INVALID_ARGUMENT for a pipe or a device, or the
// errors of ParseJson; a file above `max_bytes` is RESOURCE_EXHAUSTED with both sizes.
absl::StatusOr<Json> ReadJsonFile(const std::string& path, size_t max_bytes = 256u << 20);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_BASE_JSON_READER_H_
