#include "services/gateway/call/failover.h"

namespace qwenserve {
namespace {

// Between two looks for an equal replica, or for room at one that refused.
constexpr absl::Duration kLookAgain = absl::Milliseconds(100);

bool IsRetry(LossCause cause) {
  return cause == LossCause::kRefused || cause == LossCause::kUnreachable;
}

}  // namespace

void RetryBudget::OnRequest() {
  absl::MutexLock lock(&mutex_);
  saved_ = std::min(saved_ + settings_.ratio, settings_.most_saved);
}

bool RetryBudget::TakeRetry(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (updated_ != absl::InfinitePast() && now > updated_) {
    saved_ += settings_.per_second * absl::ToDoubleSeconds(now - updated_);
    saved_ = std::min(saved_, settings_.most_saved);
  }
  updated_ = std::max(updated_, now);
  if (saved_ < 1) return false;
  saved_ -= 1;
  return true;
}

void Failover::OnSubmit(uint32_t index, const std::string& instance_id) {
  Sample& sample = samples_[index];
  sample.instance_id = instance_id;
  sample.lost_at.reset();
  sample.full_at.reset();
  replicas_.insert(instance_id);
  if (sample.submits > 0) ++failovers_;
  ++sample.submits;
}

void Failover::OnAccepted(uint32_t index) {
  samples_[index].accepted = true;
  samples_[index].refusals = 0;
}

Failover::Verdict Failover::OnLoss(uint32_t index, LossCause cause, bool resumable, bool has_tokens,
                                   absl::Time now) {
  Sample& sample = samples_[index];
  if (!sample.lost_at.has_value()) sample.lost_at = now;
  if (IsRetry(cause)) {
    if (cause == LossCause::kRefused) {
      sample.full_at = sample.instance_id;
      // Several full replicas must not be asked in turn without a pause.
      if (++sample.refusals > 1) sample.not_before = now + kLookAgain;
    }
    if (sample.accepted) return Verdict::kResubmit;
    if (sample.retries == kMostRetries) return Verdict::kGiveUp;
    if (!budget_->TakeRetry(now)) return Verdict::kNoBudget;
    ++sample.retries;
    return Verdict::kResubmit;
  }
  sample.accepted = true;
  if (cause != LossCause::kDraining && cause != LossCause::kPaused) {
    ++sample.losses;
    lost_.insert(sample.instance_id);
    if (cause != LossCause::kEnded && cause != LossCause::kSilent) {
      sample.failed_at.insert(sample.instance_id);
    }
  }
  if (std::max<size_t>(sample.losses, lost_.size()) >= kMostLosses) return Verdict::kPoison;
  if (has_tokens && !resumable) return Verdict::kNoResume;
  return Verdict::kResubmit;
}

std::optional<absl::Time> Failover::OnNoReplica(uint32_t index, absl::Time now) {
  Sample& sample = samples_[index];
  if (!sample.accepted) return std::nullopt;
  const absl::Time end = sample.lost_at.value_or(now) + wait_;
  if (now >= end) return std::nullopt;
  sample.full_at.reset();
  return std::min(end, now + kLookAgain);
}

std::vector<std::string> Failover::Excluded(uint32_t index) const {
  const Sample& sample = samples_[index];
  std::vector<std::string> excluded(sample.failed_at.begin(), sample.failed_at.end());
  if (sample.full_at.has_value()) excluded.push_back(*sample.full_at);
  return excluded;
}

bool Failover::MayMove(uint32_t index, LossCause cause) const {
  if (cause == LossCause::kDraining) return true;
  const Sample& sample = samples_[index];
  std::set<std::string> lost = lost_;
  lost.insert(sample.instance_id);
  return std::max<size_t>(sample.losses + 1, lost.size()) < kMostLosses;
}

}  // namespace qwenserve
