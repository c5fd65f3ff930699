#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_REPLICA_HEALTH_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_REPLICA_HEALTH_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "qwenserve/v1/generator.pb.h"

namespace qwenserve {

// Which connected replicas are better left alone for a while. It judges by what this gateway has
// seen of them; time is whatever the callers say it is.

struct HealthSettings {
  // Circuit breaker: so many failures in a row open it. Then, after the first of these times and
  // twice as long after each failed trial up to the second, one trial request at a time.
  int breaker_failures = 5;
  absl::Duration breaker_open_time = absl::Seconds(1);
  absl::Duration breaker_max_open_time = absl::Seconds(30);
  // A trial that nobody has told the end of by then is not waited for.
  absl::Duration trial_timeout = absl::Seconds(10);

  // Outliers, judged once in each interval among replicas of one group (same model): a share of
  // failed sequences that exceeds the other replicas' by so much, of at least so many sequences.
  absl::Duration outlier_interval = absl::Milliseconds(2500);
  int outlier_min_sequences = 10;
  double outlier_error_margin = 0.3;
  // Or steps that took on average so many times the median of the group (of at least three that
  // were busy), and at least so long, in so many intervals in a row.
  double outlier_step_factor = 4;
  absl::Duration outlier_min_step = absl::Milliseconds(20);
  int outlier_slow_intervals = 2;
  // Before that, steps above so many times the median make its share smaller in proportion.
  double slow_share_factor = 1.5;
  // An interval in which nothing shows how fast it is makes its share larger by so much, up to the
  // whole: with little to do for all, it would never get the work that proves it well again.
  double unseen_share_factor = 2;
  // It is ejected for the first time multiplied by how often it was lately, at most the second; one
  // time is forgotten for each interval of that length without a reason.
  absl::Duration ejection_time = absl::Seconds(10);
  absl::Duration max_ejection_time = absl::Seconds(300);
  // Of a group. One may be ejected however small the group is, unless it is the last one.
  double max_ejected_share = 0.25;

  // A replica that comes, or comes back, begins with the second share of its normal load and has
  // all of it after the first.
  absl::Duration slow_start = absl::Seconds(5);
  double slow_start_share = 0.1;
};

enum class SequenceOutcome {
  kSuccess,
  kFailure,  // the replica's fault
  kNeutral,  // cancelled, refused for being full, the request's own fault
};

// One endpoint's record. It outlives sessions and processes behind the address, so that one that
// dies again and again is noticed. Thread-safe.
class ReplicaHealth {
 public:
  enum class State { kHealthy, kEjected, kBreakerOpen, kTrial };

  explicit ReplicaHealth(const HealthSettings& settings) : settings_(settings) {}

  // A session is ready: with an instance that is new, slow start begins.
  void OnConnected(const std::string& group, const std::string& instance_id, absl::Time now);
  // A session was lost; a failure if sequences were open.
  void OnLost(bool sequences_open, absl::Time now);
  // A request has been given to it.
  void OnPlaced(absl::Time now);
  void OnFirstToken(absl::Time now);
  void OnEnded(SequenceOutcome outcome, absl::Time now);
  void OnHeartbeat(const v1::EngineStats& stats, absl::Time now);

  State state(absl::Time now) const;
  // It may be given a request now: healthy, or its trial is due.
  bool Admits(absl::Time now) const;
  // Of its normal load, in (0, 1]: less at slow start, and for a replica that is slow.
  double Share(absl::Time now) const;

 private:
  friend class FleetHealth;

  enum class Breaker { kClosed, kOpen, kTrial };

  State StateLocked(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndTrial(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountFailure(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Open(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const HealthSettings settings_;
  mutable absl::Mutex mutex_;
  std::string group_ ABSL_GUARDED_BY(mutex_);
  std::string instance_id_ ABSL_GUARDED_BY(mutex_);
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time ramp_began_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();

  Breaker breaker_ ABSL_GUARDED_BY(mutex_) = Breaker::kClosed;
  int failures_in_a_row_ ABSL_GUARDED_BY(mutex_) = 0;
  int opened_ ABSL_GUARDED_BY(mutex_) = 0;  // times since it was closed
  absl::Time trial_due_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  uint64_t opens_total_ ABSL_GUARDED_BY(mutex_) = 0;

  // Of the interval that runs.
  int successes_ ABSL_GUARDED_BY(mutex_) = 0;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration busy_ ABSL_GUARDED_BY(mutex_);
  uint64_t busy_steps_ ABSL_GUARDED_BY(mutex_) = 0;
  // The last heartbeat.
  bool was_running_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_step_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time last_heartbeat_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();

  double speed_ ABSL_GUARDED_BY(mutex_) = 1;
  int slow_intervals_ ABSL_GUARDED_BY(mutex_) = 0;
  int ejections_ ABSL_GUARDED_BY(mutex_) = 0;  // lately
  absl::Time ejected_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time forget_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

// All endpoints of a gateway. Thread-safe.
class FleetHealth {
 public:
  // What has happened since the last Tick, and how many are in which state now.
  struct Report {
    int ejected_for_errors = 0;
    int ejected_for_latency = 0;
    uint64_t breakers_opened = 0;
    int ejected = 0;
    int breaker_open = 0;            // or on trial
    std::vector<std::string> notes;  // for the log
  };

  explicit FleetHealth(const HealthSettings& settings) : settings_(settings) {}

  // The record of an address; made when it is first asked for.
  std::shared_ptr<ReplicaHealth> Of(const std::string& address);
  // The address is not listed any more.
  void Forget(const std::string& address);
  // Judges the interval when it is over.
  Report Tick(absl::Time now);

 private:
  struct Sample;
  void Judge(absl::Time now, Report* report) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void JudgeGroup(std::vector<Sample>& group, absl::Time now, Report* report) const;

  const HealthSettings settings_;
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<ReplicaHealth>> replicas_ ABSL_GUARDED_BY(mutex_);
  absl::Time judged_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_REPLICA_HEALTH_H_
