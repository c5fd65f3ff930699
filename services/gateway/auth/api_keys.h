#ifndef QWENSERVE_SERVICES_GATEWAY_AUTH_API_KEYS_H_
#define QWENSERVE_SERVICES_GATEWAY_AUTH_API_KEYS_H_

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/log_limiter.h"
#include "services/common/watched_files.h"
#include "services/gateway/auth/authenticator.h"
#include "services/gateway/metrics/edge_metrics.h"

namespace qwenserve {

// The keys of a watched file (key_file.h has the format). A file that is missing or malformed keeps
// the last good keys in force.
//
// Timing tells nothing about keys: a key is looked up by a keyed hash of its SHA-256, whose key is
// drawn at the start and known to nobody, so what a guess takes says nothing about how near it was;
// and the digest found is compared in constant time.
class ApiKeys final : public Authenticator {
 public:
  using WallClock = std::function<absl::Time()>;

  // Errors of the file as of ParseKeyFile. `metrics` outlives it.
  static absl::StatusOr<std::unique_ptr<ApiKeys>> Create(const std::string& path,
                                                         absl::Duration interval, Metrics& metrics,
                                                         WallClock clock = absl::Now);

  // UNAUTHENTICATED, reason API_KEY_MISSING or API_KEY_INVALID.
  absl::StatusOr<std::shared_ptr<const KeyGrant>> Check(
      absl::string_view authorization) const override;

 private:
  struct Key {
    std::string digest;
    std::shared_ptr<const KeyGrant> grant;
  };
  using KeySet = std::unordered_map<std::string, Key>;  // by Blind

  ApiKeys(std::string path, Metrics& metrics, WallClock clock);
  absl::Status Load();
  absl::Status Take();
  std::string Blind(absl::string_view digest) const;
  absl::Status Refuse(AuthMetrics::Failure failure) const;

  const std::string path_;
  const WallClock clock_;
  const std::string blind_key_;
  AuthMetrics metrics_;
  mutable std::array<LogLimiter, AuthMetrics::kNumFailures> log_limiters_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const KeySet> keys_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<WatchedFiles> watch_;  // last: it stops first
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_AUTH_API_KEYS_H_
