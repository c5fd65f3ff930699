#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_FAILOVER_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_FAILOVER_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/gateway/routing/loss_cause.h"

namespace qwenserve {

// What becomes of a request whose replica is lost: decisions only, no I/O, time is an argument.

// How many requests may be sent to another replica because the first would not have them: a share
// of all requests, so that retries never multiply the load of replicas that are full already. What
// was accepted once is outside of it. Thread-safe.
class RetryBudget {
 public:
  struct Settings {
    double ratio = 0.1;       // of the requests
    double per_second = 3;    // so that a gateway with few requests may retry too
    double most_saved = 100;  // retries
  };
  RetryBudget() : RetryBudget(Settings()) {}
  explicit RetryBudget(const Settings& settings)
      : settings_(settings), saved_(std::min(settings.per_second, settings.most_saved)) {}

  void OnRequest();
  // False: there is none left.
  bool TakeRetry(absl::Time now);

 private:
  const Settings settings_;
  absl::Mutex mutex_;
  double saved_ ABSL_GUARDED_BY(mutex_);
  absl::Time updated_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

// The losses of one request. Not thread-safe.
class Failover {
 public:
  // A request that was in flight at so many losses is not sent to a further replica: it may be
  // what kills them.
  static constexpr uint32_t kMostLosses = 2;
  // To other replicas, of a sample that none has accepted yet.
  static constexpr uint32_t kMostRetries = 3;

  // `wait`: how long a sample may be without a replica when no equal one is there.
  Failover(uint32_t samples, absl::Duration wait, RetryBudget* budget)
      : wait_(wait), budget_(budget), samples_(samples) {}

  // Number of the attempt that OnSubmit begins: 0, and one more each time.
  uint32_t next_attempt(uint32_t sample) const { return samples_[sample].submits; }
  // The one that OnSubmit began last. Only after that.
  uint32_t attempt(uint32_t sample) const { return samples_[sample].submits - 1; }
  // The sample is with this replica now.
  void OnSubmit(uint32_t sample, const std::string& instance_id);
  // The replica has worked on the sample.
  void OnAccepted(uint32_t sample);

  enum class Verdict {
    kResubmit,
    kPoison,    // has been in flight at too many losses
    kNoResume,  // its replica offers no resume, and it has tokens
    kGiveUp,    // refused too often
    kNoBudget,  // refused, and no retry is left
  };
  // The sample has left its last replica. `resumable`: a replica of equal numerics can be told
  // from others; `has_tokens`: some have been received, in whichever attempt.
  Verdict OnLoss(uint32_t sample, LossCause cause, bool resumable, bool has_tokens, absl::Time now);

  // No replica would do. When to ask again; nullopt: too long without one.
  std::optional<absl::Time> OnNoReplica(uint32_t sample, absl::Time now);

  // When a sample that is to be resubmitted should ask for a place.
  absl::Time not_before(uint32_t sample) const { return samples_[sample].not_before; }
  // Replicas that the sample must not go to now, by instance_id.
  std::vector<std::string> Excluded(uint32_t sample) const;
  // It goes before requests that were never accepted.
  bool accepted(uint32_t sample) const { return samples_[sample].accepted; }
  // Whether a sample may leave a replica of its own will: what stalls on a replica after the loss
  // of another one stays, since it would not be sent to a third.
  bool MayMove(uint32_t sample, LossCause cause) const;

  // Times that a sample went on elsewhere, and replicas that have had one.
  uint32_t failovers() const { return failovers_; }
  uint32_t replicas() const { return static_cast<uint32_t>(replicas_.size()); }

 private:
  struct Sample {
    uint32_t submits = 0;
    uint32_t losses = 0;
    uint32_t retries = 0;
    uint32_t refusals = 0;  // in a row
    bool accepted = false;
    absl::Time not_before = absl::InfinitePast();
    std::string instance_id;             // of its last replica
    std::optional<absl::Time> lost_at;   // while it has none
    std::set<std::string> failed_at;     // never again
    std::optional<std::string> full_at;  // not next
  };

  const absl::Duration wait_;
  RetryBudget* const budget_;
  std::vector<Sample> samples_;
  std::set<std::string> lost_;  // replicas
  std::set<std::string> replicas_;
  uint32_t failovers_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_FAILOVER_H_
