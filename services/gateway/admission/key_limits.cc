#include "services/gateway/admission/key_limits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/admission/retry_delay.h"

namespace qwenserve {
namespace {

// Nobody can tell when a request of the key ends.
constexpr absl::Duration kConcurrencyDelay = absl::Seconds(1);

absl::Status NotGranted(absl::string_view field, absl::string_view description) {
  absl::Status status = absl::PermissionDeniedError(absl::StrCat(field, ": ", description));
  return WithField(WithReason(std::move(status), kReasonNotGranted), field, description);
}

}  // namespace

absl::Status KeyLimits::CheckPriority(const KeyGrant* grant, int32_t priority) {
  if (grant == nullptr || priority <= grant->priority_max) return absl::OkStatus();
  return NotGranted("options.priority", absl::StrCat("is ", priority, ", the API key allows up to ",
                                                     grant->priority_max));
}

absl::Status KeyLimits::Exceeded(GatewayMetrics::Shed shed, const KeyGrant& grant,
                                 absl::string_view limit, int64_t value,
                                 absl::Duration delay) const {
  metrics_->sheds[shed]->Increment();
  const std::string what = absl::StrCat(limit, " of ", value);
  absl::Status status =
      absl::ResourceExhaustedError(absl::StrCat("the API key has used up its ", what));
  status = WithReason(std::move(status), kReasonQuotaExceeded);
  status = WithMetadata(std::move(status), "limit", limit);
  status = WithQuotaViolation(std::move(status), absl::StrCat("tenant:", grant.tenant), what);
  return WithRetryAfter(std::move(status), RetryDelay(delay));
}

absl::StatusOr<KeyLimits::Ticket> KeyLimits::Enter(const std::shared_ptr<const KeyGrant>& grant) {
  Ticket ticket;
  if (grant == nullptr) return ticket;
  const absl::Time now = clock_();
  absl::MutexLock lock(&mutex_);
  auto found = accounts_.find(grant->sha256);
  if (found == accounts_.end()) {
    if (accounts_.size() >= forget_at_) ForgetIdle(now);
    if (accounts_.size() >= kMaxKeys) {
      absl::Status status = absl::ResourceExhaustedError("too many API keys are in use");
      return WithRetryAfter(WithReason(std::move(status), kReasonQueueFull),
                            RetryDelay(absl::Seconds(60)));
    }
    found = accounts_.emplace(grant->sha256, std::make_unique<Account>()).first;
  }
  Account& account = *found->second;
  account.requests_per_minute = grant->requests_per_minute;
  account.tokens_per_minute = grant->tokens_per_minute;
  if (const int64_t limit = grant->concurrent_requests; limit > 0 && account.in_flight >= limit) {
    return Exceeded(GatewayMetrics::kShedQuotaConcurrency, *grant, "concurrent_requests", limit,
                    kConcurrencyDelay);
  }
  // Without a token left not even the shortest prompt has a chance: nothing is spent on it.
  if (const int64_t limit = grant->tokens_per_minute; limit > 0) {
    if (auto delay = account.tokens.Until(1, limit, now); delay > absl::ZeroDuration()) {
      return Exceeded(GatewayMetrics::kShedQuotaTokens, *grant, "tokens_per_minute", limit, delay);
    }
  }
  if (const int64_t limit = grant->requests_per_minute; limit > 0) {
    if (auto delay = account.requests.Until(1, limit, now); delay > absl::ZeroDuration()) {
      return Exceeded(GatewayMetrics::kShedQuotaRequests, *grant, "requests_per_minute", limit,
                      delay);
    }
    account.requests.Take(1, limit, now);
  }
  ++account.in_flight;
  ++in_flight_;
  ticket.limits_ = this;
  ticket.grant_ = grant;
  ticket.account_ = &account;
  return ticket;
}

absl::Status KeyLimits::Ticket::TakePrompt(uint32_t tokens) {
  if (limits_ == nullptr || grant_->tokens_per_minute == 0) return absl::OkStatus();
  const int64_t limit = grant_->tokens_per_minute;
  const absl::Time now = limits_->clock_();
  absl::MutexLock lock(&limits_->mutex_);
  if (auto delay = account_->tokens.Until(tokens, limit, now); delay > absl::ZeroDuration()) {
    return limits_->Exceeded(GatewayMetrics::kShedQuotaTokens, *grant_, "tokens_per_minute", limit,
                             delay);
  }
  account_->tokens.Take(tokens, limit, now);
  prompt_tokens_ = tokens;
  return absl::OkStatus();
}

void KeyLimits::Ticket::TakeAnswer(uint32_t tokens) {
  if (limits_ == nullptr || grant_->tokens_per_minute == 0) return;
  const absl::Time now = limits_->clock_();
  absl::MutexLock lock(&limits_->mutex_);
  account_->tokens.Take(tokens, grant_->tokens_per_minute, now);
}

void KeyLimits::Ticket::GiveBack() {
  if (limits_ == nullptr) return;
  const absl::Time now = limits_->clock_();
  absl::MutexLock lock(&limits_->mutex_);
  if (const int64_t limit = grant_->requests_per_minute; limit > 0) {
    account_->requests.GiveBack(1, limit, now);
  }
  if (const int64_t limit = grant_->tokens_per_minute; limit > 0) {
    account_->tokens.GiveBack(std::exchange(prompt_tokens_, 0), limit, now);
  }
}

void KeyLimits::Leave(Account* account) {
  absl::MutexLock lock(&mutex_);
  --account->in_flight;
  --in_flight_;
}

void KeyLimits::ForgetIdle(absl::Time now) {
  for (auto it = accounts_.begin(); it != accounts_.end();) {
    Account& account = *it->second;
    const bool idle = account.in_flight == 0 &&
                      account.requests.IsFull(account.requests_per_minute, now) &&
                      account.tokens.IsFull(account.tokens_per_minute, now);
    if (idle) {
      accounts_.erase(it++);
    } else {
      ++it;
    }
  }
  // Not again before there are twice as many, so that going through them costs little for each.
  forget_at_ = std::clamp<size_t>(2 * accounts_.size(), 1024, kMaxKeys);
}

int64_t KeyLimits::in_flight() const {
  absl::MutexLock lock(&mutex_);
  return in_flight_;
}

size_t KeyLimits::keys() const {
  absl::MutexLock lock(&mutex_);
  return accounts_.size();
}

}  // namespace qwenserve
