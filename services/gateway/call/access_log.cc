#include "services/gateway/call/access_log.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"
#include "services/common/logging.h"
#include "services/common/tracing/trace_context.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kLookInterval = absl::Seconds(1);

}  // namespace

std::string FormatAccessLine(const AccessRecord& record, const Caller& caller, absl::Time end) {
  // A line of the JSON log with more in it, in the order in which it is read; text goes through the
  // JSON library, which escapes it.
  Json line = LogFields(end, "info");
  line["message"] = "request";
  line["request_id"] = record.id;
  if (!record.client_id.empty()) line["client_id"] = record.client_id;
  if (caller.grant != nullptr) line["tenant"] = caller.grant->tenant;
  line["method"] = record.method;
  if (!record.model.empty()) line["model"] = record.model;
  line["code"] = absl::StatusCodeToString(record.status.code());
  if (const std::string reason = ErrorReason(record.status); !reason.empty()) {
    line["reason"] = reason;
  }
  line["prompt_tokens"] = record.prompt_tokens;
  line["cached_tokens"] = record.cached_tokens;
  line["completion_tokens"] = record.completion_tokens;
  if (record.time_to_first_token.has_value()) {
    line["ttft_ms"] = absl::ToInt64Microseconds(*record.time_to_first_token) / 1000.0;
  }
  line["duration_ms"] = absl::ToInt64Microseconds(record.duration) / 1000.0;
  line["replicas"] = record.replicas;
  line["failovers"] = record.failovers;
  line["peer"] = caller.peer;
  if (!caller.traceparent.empty()) {
    line["traceparent"] = caller.traceparent;
    line["trace_id"] = TraceIdText(ParseTraceparent(caller.traceparent));
  }
  return line.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

AccessLog::AccessLog(std::string path, Metrics& metrics)
    : path_(std::move(path)), metrics_(metrics) {}

absl::StatusOr<std::unique_ptr<AccessLog>> AccessLog::Open(const std::string& path,
                                                           Metrics& metrics) {
  std::unique_ptr<AccessLog> log(new AccessLog(path, metrics));
  QS_RETURN_IF_ERROR(log->OpenFile());
  log->thread_ = std::thread([raw = log.get()] { raw->Run(); });
  return log;
}

AccessLog::~AccessLog() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::Status AccessLog::OpenFile() {
  UniqueFd fd(path_ == "-" ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                           : open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
  if (!fd.ok()) {
    return absl::UnavailableError(absl::StrCat("access log ", path_, ": ", std::strerror(errno)));
  }
  fd_ = std::move(fd);
  cut_line_ = false;
  return absl::OkStatus();
}

bool AccessLog::Moved() const {
  struct stat here {
  }, there{};
  if (path_ == "-" || fstat(fd_.get(), &here) != 0) return false;
  return stat(path_.c_str(), &there) != 0 || here.st_ino != there.st_ino ||
         here.st_dev != there.st_dev;
}

void AccessLog::Write(const AccessRecord& record, const Caller& caller) {
  const std::string line = FormatAccessLine(record, caller, absl::Now());
  absl::MutexLock lock(&mutex_);
  if (queue_.size() + line.size() + 1 > kMaxQueuedBytes) {
    metrics_.dropped.Increment();
    return;
  }
  absl::StrAppend(&queue_, line, "\n");
  ++queued_lines_;
}

void AccessLog::Run() {
  while (true) {
    std::string lines;
    int64_t count = 0;
    bool last = false;
    {
      absl::MutexLock lock(&mutex_);
      auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stop_ || !queue_.empty();
      };
      mutex_.AwaitWithTimeout(absl::Condition(&something), kLookInterval);
      last = stop_;
      lines.swap(queue_);
      count = std::exchange(queued_lines_, 0);
    }
    if (!lines.empty()) {
      if (Moved()) {
        if (absl::Status status = OpenFile(); !status.ok() && failures_.Count(absl::Now())) {
          spdlog::error("{}", std::string(status.message()));
        }
      }
      WriteLines(lines, count);
    }
    if (last) return;
  }
}

void AccessLog::WriteLines(const std::string& lines, int64_t count) {
  const std::string text = cut_line_ ? absl::StrCat("\n", lines) : lines;
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t wrote = write(fd_.get(), text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) break;
    done += static_cast<size_t>(wrote);
  }
  if (done > 0) cut_line_ = text[done - 1] != '\n';
  if (done == text.size()) {
    metrics_.written.Increment(static_cast<double>(count));
    return;
  }
  const std::string error = std::strerror(errno);
  const auto whole = static_cast<int64_t>(std::count(
      lines.begin(), lines.begin() + static_cast<ptrdiff_t>(std::min(done, lines.size())), '\n'));
  metrics_.written.Increment(static_cast<double>(whole));
  metrics_.dropped.Increment(static_cast<double>(count - whole));
  if (failures_.Count(absl::Now())) {
    spdlog::error("access log {}: {}; lines are dropped", path_, error);
  }
}

}  // namespace qwenserve
