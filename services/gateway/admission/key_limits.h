#ifndef QWENSERVE_SERVICES_GATEWAY_ADMISSION_KEY_LIMITS_H_
#define QWENSERVE_SERVICES_GATEWAY_ADMISSION_KEY_LIMITS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/gateway/admission/token_bucket.h"
#include "services/gateway/auth/authenticator.h"
#include "services/gateway/metrics/gateway_metrics.h"

namespace qwenserve {

// Holds each API key to its grant: highest priority, requests and tokens a minute, requests at a
// time; its models are ModelCatalog's business. Gateways share nothing, so the numbers hold per
// gateway: behind n of them a key may use n times as much. Without a grant nothing is limited.
// Thread-safe.
class KeyLimits {
  struct Account;

 public:
  // A key is forgotten when it has nothing in flight and its buckets are full; more at a time are
  // refused.
  static constexpr size_t kMaxKeys = 100000;

  // A request's place within its key's concurrency, given back by destruction. The KeyLimits must
  // outlive it.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept { *this = std::move(other); }
    Ticket& operator=(Ticket&& other) noexcept {
      std::swap(limits_, other.limits_);
      std::swap(grant_, other.grant_);
      std::swap(account_, other.account_);
      std::swap(prompt_tokens_, other.prompt_tokens_);
      return *this;
    }
    ~Ticket() {
      if (limits_ != nullptr) limits_->Leave(account_);
    }

    // Takes the prompt from the key's tokens. RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED, with
    // QuotaFailure and RetryInfo, when there are too few left.
    absl::Status TakePrompt(uint32_t tokens);
    // Tokens of the answer, as they come. They are never refused: what a key overdraws it must let
    // grow back before its next request.
    void TakeAnswer(uint32_t tokens);
    // The gateway had no room for the request: it and its prompt count as never asked.
    void GiveBack();

   private:
    friend class KeyLimits;
    KeyLimits* limits_ = nullptr;
    std::shared_ptr<const KeyGrant> grant_;
    Account* account_ = nullptr;
    uint32_t prompt_tokens_ = 0;  // taken
  };

  KeyLimits(Clock clock, GatewayMetrics* metrics) : clock_(std::move(clock)), metrics_(metrics) {}

  // Counts a request. RESOURCE_EXHAUSTED as of TakePrompt when the key has no requests, no place or
  // no tokens left.
  absl::StatusOr<Ticket> Enter(const std::shared_ptr<const KeyGrant>& grant);

  // PERMISSION_DENIED, reason NOT_GRANTED, naming the field `options.priority`. Below 0 anyone may.
  static absl::Status CheckPriority(const KeyGrant* grant, int32_t priority);

  // Of all keys.
  int64_t in_flight() const;
  size_t keys() const;

 private:
  struct Account {
    int64_t in_flight = 0;
    TokenBucket requests;
    TokenBucket tokens;
    int64_t requests_per_minute = 0;  // as of the last grant seen
    int64_t tokens_per_minute = 0;
  };

  absl::Status Exceeded(GatewayMetrics::Shed shed, const KeyGrant& grant, absl::string_view limit,
                        int64_t value, absl::Duration delay) const;
  void Leave(Account* account);
  void ForgetIdle(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock clock_;
  GatewayMetrics* const metrics_;
  mutable absl::Mutex mutex_;
  // By the key's hash.
  absl::flat_hash_map<std::string, std::unique_ptr<Account>> accounts_ ABSL_GUARDED_BY(mutex_);
  size_t forget_at_ ABSL_GUARDED_BY(mutex_) = 1024;
  int64_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ADMISSION_KEY_LIMITS_H_
