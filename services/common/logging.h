#ifndef QWENSERVE_SERVICES_COMMON_LOGGING_H_
#define QWENSERVE_SERVICES_COMMON_LOGGING_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// spdlog's default logger writes one line per event to stderr: time (UTC), level, role, text.
// Never log prompts, answers or their pieces, at any level.
void InitLogging(absl::string_view role);

// trace, debug, info, warn or error; takes effect at once.
absl::Status SetLogLevel(absl::string_view level);
std::string LogLevel();
const std::vector<std::string>& LogLevels();

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_LOGGING_H_
