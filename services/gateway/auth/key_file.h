#ifndef QWENSERVE_SERVICES_GATEWAY_AUTH_KEY_FILE_H_
#define QWENSERVE_SERVICES_GATEWAY_AUTH_KEY_FILE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/gateway/auth/authenticator.h"

namespace qwenserve {

// Reads a file of API keys: one JSON object a line; empty lines and lines that begin with # are
// left out. Members are those of KeyGrant:
//
//   {"sha256": "9f86...", "tenant": "team-a", "models": ["qwen"], "priority_max": 10,
//    "limits": {"requests_per_minute": 60, "tokens_per_minute": 100000, "concurrent_requests": 8},
//    "expires": "2031-01-01T00:00:00Z"}
//
// `sha256` and `tenant` are needed. INVALID_ARGUMENT with `source` and the number of the line for
// an unknown or malformed member, for a digest that occurs twice, and for a file without any key,
// which is more likely a mistake than meant.
absl::StatusOr<std::vector<std::shared_ptr<const KeyGrant>>> ParseKeyFile(absl::string_view text,
                                                                          absl::string_view source);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_AUTH_KEY_FILE_H_
