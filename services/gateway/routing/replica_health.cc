#include "services/gateway/routing/replica_health.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qwenserve {

void ReplicaHealth::OnConnected(const std::string& group, const std::string& instance_id,
                                absl::Time now) {
  absl::MutexLock lock(&mutex_);
  group_ = group;
  connected_ = true;
  was_running_ = false;
  if (instance_id == instance_id_) return;
  instance_id_ = instance_id;
  ramp_began_ = now;
  slow_intervals_ = 0;
  speed_ = 1;
}

void ReplicaHealth::OnLost(bool sequences_open, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  connected_ = false;
  was_running_ = false;
  if (sequences_open) CountFailure(now);
}

void ReplicaHealth::OnPlaced(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (breaker_ == Breaker::kClosed) return;
  breaker_ = Breaker::kTrial;
  trial_due_ = now + settings_.trial_timeout;
}

// Answers may take minutes, a trial should not.
void ReplicaHealth::OnFirstToken(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  EndTrial(now);
}

void ReplicaHealth::EndTrial(absl::Time now) {
  // While it is open, what was begun before may still go well, and says nothing of new work.
  if (breaker_ != Breaker::kTrial) return;
  breaker_ = Breaker::kClosed;
  failures_in_a_row_ = 0;
  opened_ = 0;
  ramp_began_ = now;
}

void ReplicaHealth::OnEnded(SequenceOutcome outcome, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  switch (outcome) {
    case SequenceOutcome::kSuccess:
      ++successes_;
      failures_in_a_row_ = 0;
      EndTrial(now);
      return;
    case SequenceOutcome::kFailure:
      CountFailure(now);
      return;
    case SequenceOutcome::kNeutral:
      if (breaker_ == Breaker::kTrial) {
        breaker_ = Breaker::kOpen;
        trial_due_ = now;
      }
      return;
  }
}

void ReplicaHealth::CountFailure(absl::Time now) {
  ++failures_;
  ++failures_in_a_row_;
  const bool too_many =
      breaker_ == Breaker::kClosed && failures_in_a_row_ >= settings_.breaker_failures;
  if (too_many || breaker_ == Breaker::kTrial) Open(now);
}

void ReplicaHealth::Open(absl::Time now) {
  breaker_ = Breaker::kOpen;
  absl::Duration wait = settings_.breaker_open_time;
  for (int i = 0; i < opened_ && wait < settings_.breaker_max_open_time; ++i) wait *= 2;
  ++opened_;
  ++opens_total_;
  trial_due_ = now + std::min(wait, settings_.breaker_max_open_time);
}

// Steps between two heartbeats, if it was at work at both ends; what happened between does not
// show, so a short pause counts as slowness and many intervals decide.
void ReplicaHealth::OnHeartbeat(const v1::EngineStats& stats, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  const bool running = stats.running() > 0;
  if (running && was_running_ && stats.step() >= last_step_) {
    busy_ += now - last_heartbeat_;
    busy_steps_ += stats.step() - last_step_;
  }
  was_running_ = running;
  last_step_ = stats.step();
  last_heartbeat_ = now;
}

ReplicaHealth::State ReplicaHealth::StateLocked(absl::Time now) const {
  if (breaker_ == Breaker::kOpen) return State::kBreakerOpen;
  if (breaker_ == Breaker::kTrial) return State::kTrial;
  return now < ejected_until_ ? State::kEjected : State::kHealthy;
}

ReplicaHealth::State ReplicaHealth::state(absl::Time now) const {
  absl::MutexLock lock(&mutex_);
  return StateLocked(now);
}

bool ReplicaHealth::Admits(absl::Time now) const {
  absl::MutexLock lock(&mutex_);
  if (now < ejected_until_) return false;
  return breaker_ == Breaker::kClosed || now >= trial_due_;
}

double ReplicaHealth::Share(absl::Time now) const {
  absl::MutexLock lock(&mutex_);
  const absl::Duration up = now - std::max(ramp_began_, ejected_until_);
  if (up >= settings_.slow_start) return speed_;
  const double part = std::max(0.0, absl::FDivDuration(up, settings_.slow_start));
  return std::max(settings_.slow_start_share, part) * speed_;
}

std::shared_ptr<ReplicaHealth> FleetHealth::Of(const std::string& address) {
  absl::MutexLock lock(&mutex_);
  std::shared_ptr<ReplicaHealth>& health = replicas_[address];
  if (health == nullptr) health = std::make_shared<ReplicaHealth>(settings_);
  return health;
}

void FleetHealth::Forget(const std::string& address) {
  absl::MutexLock lock(&mutex_);
  replicas_.erase(address);
}

FleetHealth::Report FleetHealth::Tick(absl::Time now) {
  Report report;
  absl::MutexLock lock(&mutex_);
  if (judged_ == absl::InfinitePast()) judged_ = now;
  if (now - judged_ >= settings_.outlier_interval) {
    Judge(now, &report);
    judged_ = now;
  }
  for (const auto& [address, health] : replicas_) {
    absl::MutexLock health_lock(&health->mutex_);
    report.breakers_opened += std::exchange(health->opens_total_, 0);
    report.ejected += now < health->ejected_until_;
    report.breaker_open += health->breaker_ != ReplicaHealth::Breaker::kClosed;
  }
  return report;
}

// One replica in the interval that is over.
struct FleetHealth::Sample {
  std::string address;
  ReplicaHealth* health = nullptr;
  int successes = 0;
  int failures = 0;
  absl::Duration step = absl::ZeroDuration();  // mean; zero: was not busy
  bool out = false;                            // takes no work now
};

void FleetHealth::Judge(absl::Time now, Report* report) {
  std::map<std::string, std::vector<Sample>> groups;
  for (const auto& [address, health] : replicas_) {
    absl::MutexLock lock(&health->mutex_);
    Sample sample;
    sample.address = address;
    sample.health = health.get();
    sample.successes = std::exchange(health->successes_, 0);
    sample.failures = std::exchange(health->failures_, 0);
    const absl::Duration busy = std::exchange(health->busy_, absl::ZeroDuration());
    const uint64_t steps = std::exchange(health->busy_steps_, 0);
    if (busy > absl::ZeroDuration()) sample.step = busy / std::max<int64_t>(1, steps);
    sample.out = health->StateLocked(now) != ReplicaHealth::State::kHealthy;
    if (now >= health->forget_at_ && health->ejections_ > 0) {
      --health->ejections_;
      health->forget_at_ = now + settings_.ejection_time;
    }
    if (health->connected_) groups[health->group_].push_back(sample);
  }
  for (auto& [name, group] : groups) JudgeGroup(group, now, report);
}

void FleetHealth::JudgeGroup(std::vector<Sample>& group, absl::Time now, Report* report) const {
  int successes = 0, failures = 0, out = 0;
  std::vector<absl::Duration> steps;
  for (const Sample& sample : group) {
    successes += sample.successes;
    failures += sample.failures;
    out += sample.out;
    if (sample.step > absl::ZeroDuration()) steps.push_back(sample.step);
  }
  absl::Duration median = absl::InfiniteDuration();
  if (steps.size() >= 3) {
    std::nth_element(steps.begin(), steps.begin() + steps.size() / 2, steps.end());
    median = steps[steps.size() / 2];
  }
  const absl::Duration slow =
      std::max(median * settings_.outlier_step_factor, settings_.outlier_min_step);
  const int size = static_cast<int>(group.size());
  const int allowed =
      std::min(size - 1, std::max(1, static_cast<int>(size * settings_.max_ejected_share)));
  for (const Sample& sample : group) {
    absl::MutexLock lock(&sample.health->mutex_);
    const bool is_slow = sample.step >= slow;
    if (sample.step > absl::ZeroDuration() && median < absl::InfiniteDuration()) {
      const double factor = absl::FDivDuration(median, sample.step) * settings_.slow_share_factor;
      sample.health->speed_ = std::min(1.0, factor);
      sample.health->slow_intervals_ = is_slow ? sample.health->slow_intervals_ + 1 : 0;
    } else {
      sample.health->speed_ = std::min(1.0, sample.health->speed_ * settings_.unseen_share_factor);
    }
    const int own = sample.successes + sample.failures;
    const int others = successes + failures - own;
    const double others_rate = others > 0 ? double(failures - sample.failures) / others : 0;
    const bool errors =
        own >= settings_.outlier_min_sequences &&
        double(sample.failures) / own > others_rate + settings_.outlier_error_margin;
    const bool latency = sample.health->slow_intervals_ >= settings_.outlier_slow_intervals;
    if (sample.out || (!errors && !latency) || out >= allowed) continue;
    ++out;
    ReplicaHealth& health = *sample.health;
    ++health.ejections_;
    // When it is back, one more such interval is enough.
    health.slow_intervals_ = settings_.outlier_slow_intervals - 1;
    const absl::Duration time =
        std::min(settings_.ejection_time * health.ejections_, settings_.max_ejection_time);
    health.ejected_until_ = now + time;
    health.forget_at_ = now + time + settings_.ejection_time;
    ++(errors ? report->ejected_for_errors : report->ejected_for_latency);
    report->notes.push_back(
        errors ? absl::StrCat("generator at ", sample.address, " gets no work for ",
                              absl::FormatDuration(time), ": ", sample.failures, " of ", own,
                              " sequences failed")
               : absl::StrCat("generator at ", sample.address, " gets no work for ",
                              absl::FormatDuration(time), ": its steps take ",
                              absl::FormatDuration(sample.step), ", above ",
                              absl::FormatDuration(slow)));
  }
}

}  // namespace qwenserve
