#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_ACCESS_LOG_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_ACCESS_LOG_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/log_limiter.h"
#include "services/common/net/unique_fd.h"
#include "services/gateway/auth/authenticator.h"
#include "services/gateway/metrics/edge_metrics.h"

namespace qwenserve {

// What one request's line says: who, what, how long, how it ended. Nothing of prompts and answers.
struct AccessRecord {
  std::string id;         // ours
  std::string client_id;  // the client's own name for it: printable ASCII
  const char* method = "";
  std::string model;  // as served; empty when it was not found
  absl::Status status;
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;
  uint32_t completion_tokens = 0;
  std::optional<absl::Duration> time_to_first_token;
  absl::Duration duration;
  uint32_t replicas = 0;
  uint32_t failovers = 0;
};

// One JSON object without a line break.
std::string FormatAccessLine(const AccessRecord& record, const Caller& caller, absl::Time end);

// A file of such lines, written by a thread of its own. What does not fit into the queue or onto
// the disk is dropped and counted; a request never waits. A file that is renamed or removed, as
// programs that rotate logs do, is made anew within a second. Thread-safe.
class AccessLog {
 public:
  // Bytes of lines that may wait.
  static constexpr size_t kMaxQueuedBytes = 8 << 20;

  // `path`: a file to append to, or "-" for stdout. UNAVAILABLE when it cannot be opened.
  // `metrics` outlives it.
  static absl::StatusOr<std::unique_ptr<AccessLog>> Open(const std::string& path, Metrics& metrics);
  // Writes what waits first.
  ~AccessLog();

  void Write(const AccessRecord& record, const Caller& caller);

 private:
  AccessLog(std::string path, Metrics& metrics);
  absl::Status OpenFile();
  bool Moved() const;
  void Run();
  void WriteLines(const std::string& lines, int64_t count);

  const std::string path_;
  AccessLogMetrics metrics_;
  UniqueFd fd_;            // the thread's, once it runs
  bool cut_line_ = false;  // the thread's: the file may end within a line
  LogLimiter failures_{absl::Seconds(60)};
  absl::Mutex mutex_;
  std::string queue_ ABSL_GUARDED_BY(mutex_);
  int64_t queued_lines_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_ACCESS_LOG_H_
