#include "services/common/logging.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "grpc/support/log.h"
#include "spdlog/formatter.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

struct LogRequest {
  absl::string_view request_id;
  absl::string_view trace_id;
};
thread_local LogRequest log_request;

// Who writes; set once, before other threads are there.
struct LogIdentity {
  std::string role;
  std::string instance_id;
  bool json = false;
};
LogIdentity& ThisProcess() {
  static auto& identity = *new LogIdentity;
  return identity;
}

class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const spdlog::string_view_t name = spdlog::level::to_string_view(message.level);
    const absl::string_view level =
        message.level == spdlog::level::warn ? "warn" : absl::string_view(name.data(), name.size());
    Json line = LogFields(absl::FromChrono(message.time), level);
    if (!log_request.request_id.empty()) {
      line["request_id"] = std::string(log_request.request_id);
    }
    if (!log_request.trace_id.empty()) line["trace_id"] = std::string(log_request.trace_id);
    line["message"] = std::string(message.payload.data(), message.payload.size());
    const std::string text = line.dump(-1, ' ', true, Json::error_handler_t::replace);
    out.append(text.data(), text.data() + text.size());
    out.push_back('\n');
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

// gRPC's own lines; GRPC_VERBOSITY, by default ERROR, says which there are.
void LogOfGrpc(gpr_log_func_args* args) {
  const auto level = args->severity == GPR_LOG_SEVERITY_ERROR  ? spdlog::level::err
                     : args->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::info
                                                               : spdlog::level::debug;
  spdlog::log(level, "grpc: {}", args->message);
}

}  // namespace

void InitLogging(absl::string_view role, absl::string_view instance_id, bool json) {
  ThisProcess() = {std::string(role), std::string(instance_id), json};
  auto logger = std::make_shared<spdlog::logger>(std::string(role),
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (json) {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %^%l%$ [%n] %v", spdlog::pattern_time_type::utc);
  }
  spdlog::set_default_logger(std::move(logger));
  gpr_set_log_function(LogOfGrpc);
}

Json LogFields(absl::Time time, absl::string_view level) {
  const LogIdentity& process = ThisProcess();
  Json line = Json::object();
  line["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
  line["level"] = std::string(level);
  line["role"] = process.role;
  if (!process.instance_id.empty()) line["instance"] = process.instance_id;
  return line;
}

bool LogsAreJson() { return ThisProcess().json; }

LogScope::LogScope(absl::string_view request_id, absl::string_view trace_id) {
  log_request = {request_id, trace_id};
}

LogScope::~LogScope() { log_request = {}; }

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
