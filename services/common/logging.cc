#include "services/common/logging.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace qwenserve {

void InitLogging(absl::string_view role) {
  auto logger = std::make_shared<spdlog::logger>(std::string(role),
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %^%l%$ [%n] %v", spdlog::pattern_time_type::utc);
  spdlog::set_default_logger(std::move(logger));
}

const std::vector<std::string>& LogLevels() {
  static const auto& kLevels =
      *new std::vector<std::string>{"trace", "debug", "info", "warn", "error"};
  return kLevels;
}

absl::Status SetLogLevel(absl::string_view level) {
  const auto& levels = LogLevels();
  auto found = std::find(levels.begin(), levels.end(), level);
  if (found == levels.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("log level '", level, "' is not one of ", absl::StrJoin(levels, ", ")));
  }
  // spdlog's levels are numbered in this order from trace = 0.
  spdlog::set_level(static_cast<spdlog::level::level_enum>(found - levels.begin()));
  return absl::OkStatus();
}

std::string LogLevel() {
  const size_t level = static_cast<size_t>(spdlog::get_level());
  return level < LogLevels().size() ? LogLevels()[level] : "off";
}

}  // namespace qwenserve
