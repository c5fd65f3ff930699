#include "services/gateway/auth/api_keys.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "services/common/digest.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/auth/key_file.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr size_t kMaxFileBytes = 16 << 20;
constexpr absl::Duration kLogInterval = absl::Seconds(10);
constexpr absl::string_view kScheme = "Bearer ";

}  // namespace

ApiKeys::ApiKeys(std::string path, Metrics& metrics, WallClock clock)
    : path_(std::move(path)),
      clock_(std::move(clock)),
      blind_key_(RandomBytes(32)),
      metrics_(metrics),
      log_limiters_{LogLimiter(kLogInterval), LogLimiter(kLogInterval), LogLimiter(kLogInterval),
                    LogLimiter(kLogInterval)} {}

absl::StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::Create(const std::string& path,
                                                         absl::Duration interval, Metrics& metrics,
                                                         WallClock clock) {
  std::unique_ptr<ApiKeys> keys(new ApiKeys(path, metrics, std::move(clock)));
  ApiKeys* raw = keys.get();
  auto watch = std::make_unique<WatchedFiles>("API keys", std::vector<std::string>{path}, interval,
                                              [raw] { return raw->Load(); });
  keys->watch_ = std::move(watch);
  QS_RETURN_IF_ERROR(keys->Load());
  return keys;
}

absl::Status ApiKeys::Load() {
  const absl::Status status = Take();
  (status.ok() ? metrics_.reloads_ok : metrics_.reloads_failed).Increment();
  return status;
}

absl::Status ApiKeys::Take() {
  QS_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path_, kMaxFileBytes));
  QS_ASSIGN_OR_RETURN(const auto grants, ParseKeyFile(text, path_));
  auto keys = std::make_shared<KeySet>();
  for (const auto& grant : grants) {
    std::string digest = FromHex(grant->sha256);
    std::string blinded = Blind(digest);
    keys->emplace(std::move(blinded), Key{std::move(digest), grant});
  }
  metrics_.keys.Set(static_cast<double>(keys->size()));
  absl::MutexLock lock(&mutex_);
  keys_ = std::move(keys);
  return absl::OkStatus();
}

std::string ApiKeys::Blind(absl::string_view digest) const {
  return HmacSha256(blind_key_, digest);
}

absl::StatusOr<std::shared_ptr<const KeyGrant>> ApiKeys::Check(
    absl::string_view authorization) const {
  authorization = absl::StripAsciiWhitespace(authorization);
  if (authorization.empty()) return Refuse(AuthMetrics::kMissing);
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) return Refuse(AuthMetrics::kMalformed);
  const absl::string_view key = absl::StripAsciiWhitespace(authorization.substr(kScheme.size()));
  if (key.empty()) return Refuse(AuthMetrics::kMalformed);

  const std::string digest = Sha256(key);
  const std::string blinded = Blind(digest);
  // The same work whether or not there is such a key.
  Key entry{std::string(digest.size(), '\0'), nullptr};
  {
    absl::MutexLock lock(&mutex_);
    auto found = keys_->find(blinded);
    if (found != keys_->end()) entry = found->second;
  }
  if (!EqualInConstantTime(entry.digest, digest) || entry.grant == nullptr) {
    return Refuse(AuthMetrics::kUnknown);
  }
  if (clock_() >= entry.grant->expires) return Refuse(AuthMetrics::kExpired);
  return entry.grant;
}

absl::Status ApiKeys::Refuse(AuthMetrics::Failure failure) const {
  metrics_.failures[failure]->Increment();
  if (std::optional<int64_t> events = log_limiters_[failure].Count(clock_())) {
    spdlog::warn("{} requests refused: API key {}", *events, AuthMetrics::kFailureNames[failure]);
  }
  if (failure == AuthMetrics::kMissing) {
    return WithReason(
        absl::UnauthenticatedError("an API key is needed, as `authorization: Bearer KEY`"),
        kReasonApiKeyMissing);
  }
  return WithReason(absl::UnauthenticatedError("the API key is not valid"), kReasonApiKeyInvalid);
}

}  // namespace qwenserve
