#include "tools/qwenctl/bench/bench_recorder.h"

#include <algorithm>
#include <chrono>

namespace qwenserve {

absl::Time BenchNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

BenchRecorder::Call::Call(BenchRecorder* recorder, absl::Time intended, absl::Time sent)
    : recorder_(recorder), intended_(intended) {
  recorder_->started_.fetch_add(1, std::memory_order_relaxed);
  recorder_->send_delay.Record(sent - intended);
}

void BenchRecorder::Call::OnTokens(uint32_t tokens, absl::Time now) {
  if (tokens == 0) return;
  if (tokens_ == 0) {
    first_ = now;
    recorder_->ttft.Record(now - intended_);
  } else {
    recorder_->inter_token.Record(now - last_);
  }
  last_ = now;
  tokens_ += tokens;
  recorder_->tokens_.fetch_add(tokens, std::memory_order_relaxed);
  recorder_->messages_.fetch_add(1, std::memory_order_relaxed);
}

void BenchRecorder::Call::OnUsage(uint32_t prompt_tokens, uint32_t tokens) {
  prompt_tokens_ = prompt_tokens;
  // The difference may be negative: a stop string's text comes in fewer tokens than messages.
  recorder_->tokens_.fetch_add(uint64_t{tokens} - tokens_, std::memory_order_relaxed);
  tokens_ = tokens;
}

void BenchRecorder::Call::OnDone(const std::string& error, absl::Time now) {
  recorder_->prompt_tokens_.fetch_add(prompt_tokens_, std::memory_order_relaxed);
  if (error.empty()) {
    recorder_->succeeded_.fetch_add(1, std::memory_order_relaxed);
    recorder_->end_to_end.Record(now - intended_);
    const GoodputLimits& limits = recorder_->limits_;
    const absl::Duration gaps = tokens_ > 1 ? (last_ - first_) / (tokens_ - 1.0) : absl::Duration();
    const bool good = (!limits.ttft.has_value() || first_ - intended_ <= *limits.ttft) &&
                      (!limits.inter_token.has_value() || gaps <= *limits.inter_token) &&
                      (!limits.end_to_end.has_value() || now - intended_ <= *limits.end_to_end);
    if (good) recorder_->good_.fetch_add(1, std::memory_order_relaxed);
  } else {
    absl::MutexLock lock(&recorder_->mutex_);
    ++recorder_->errors_[error];
  }
  recorder_->ended_.fetch_add(1, std::memory_order_release);
}

std::map<std::string, uint64_t> BenchRecorder::errors() const {
  absl::MutexLock lock(&mutex_);
  return errors_;
}

}  // namespace qwenserve
