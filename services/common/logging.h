#ifndef QWENSERVE_SERVICES_COMMON_LOGGING_H_
#define QWENSERVE_SERVICES_COMMON_LOGGING_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/base/json_reader.h"

namespace qwenserve {

// spdlog's default logger writes one line per event to stderr: time (UTC), level, role, text; or
// with `json` one object with time, level, role, instance and message, and where a LogScope says
// so request_id and trace_id. gRPC's own errors go the same way.
// Never log prompts, answers or their pieces, at any level.
void InitLogging(absl::string_view role, absl::string_view instance_id = "", bool json = false);

// The fields that every JSON line of this process begins with, `message` apart: for lines that are
// not spdlog's.
Json LogFields(absl::Time time, absl::string_view level);
bool LogsAreJson();

// While it lives, lines of this thread are about this request. The texts outlive it; an empty one
// is left out. Scopes may not overlap.
class LogScope {
 public:
  LogScope(absl::string_view request_id, absl::string_view trace_id);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;
};

// trace, debug, info, warn or error; takes effect at once.
absl::Status SetLogLevel(absl::string_view level);
std::string LogLevel();
const std::vector<std::string>& LogLevels();

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_LOGGING_H_
