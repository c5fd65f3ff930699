#include "services/gateway/workers/detokenize_stream.h"

#include <algorithm>
#include <utility>

#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"

namespace qwenserve {

DetokenizeStream::DetokenizeStream(Hooks hooks, Clock clock, int max_items_per_message)
    : hooks_(std::move(hooks)),
      clock_(std::move(clock)),
      max_items_(std::max(1, max_items_per_message)) {}

void DetokenizeStream::Open(v1::Tokenizer::Stub* stub) {
  self_ = shared_from_this();
  stub->async()->Detokenize(&context_, this);
  // Writes come from any thread; until the read has failed the stream must not be torn down.
  AddHold();
  StartRead(&incoming_);
  StartCall();
}

bool DetokenizeStream::Add(TextItem&& item) {
  absl::MutexLock lock(&mutex_);
  if (lost_) return false;
  item.since = clock_();
  queued_.push_back(std::move(item));
  return true;
}

void DetokenizeStream::Flush() {
  absl::MutexLock lock(&mutex_);
  WriteNext();
}

void DetokenizeStream::WriteNext() {
  if (writing_ || lost_ || queued_.empty()) return;
  outgoing_.Clear();
  outgoing_.set_step(++step_);
  while (!queued_.empty() && outgoing_.items_size() < max_items_) {
    TextItem item = std::move(queued_.front());
    queued_.pop_front();
    *outgoing_.add_items() = item.item;
    item.since = clock_();
    const uint64_t key = item.item.key();
    sent_[key] = std::move(item);
  }
  writing_ = true;
  StartWrite(&outgoing_);
}

void DetokenizeStream::Close(bool in_order) {
  std::vector<TextItem> items;
  {
    absl::MutexLock lock(&mutex_);
    if (lost_) return;
    lost_ = true;
    in_order_ = in_order;
    for (auto& [key, item] : sent_) {
      ++item.losses;
      items.push_back(std::move(item));
    }
    for (TextItem& item : queued_) items.push_back(std::move(item));
    sent_.clear();
    queued_.clear();
  }
  context_.TryCancel();
  hooks_.on_lost(std::move(items));
}

bool DetokenizeStream::lost() const {
  absl::MutexLock lock(&mutex_);
  return lost_;
}

bool DetokenizeStream::in_order() const {
  absl::MutexLock lock(&mutex_);
  return in_order_;
}

absl::Duration DetokenizeStream::OldestAge() const {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = clock_();
  absl::Time oldest = now;
  for (const auto& [key, item] : sent_) oldest = std::min(oldest, item.since);
  return now - oldest;
}

void DetokenizeStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  // A failed write means a dead stream, which the read will report.
  if (ok) WriteNext();
}

void DetokenizeStream::OnReadDone(bool ok) {
  if (!ok) {
    Close();
    RemoveHold();
    return;
  }
  std::vector<std::pair<std::shared_ptr<TextListener>, v1::DetokenizeResult*>> deliveries;
  {
    absl::MutexLock lock(&mutex_);
    for (v1::DetokenizeResult& result : *incoming_.mutable_results()) {
      auto found = sent_.find(result.key());
      if (found == sent_.end() || found->second.item.seq() != result.seq()) continue;
      hooks_.texts->Learn(found->second.item, result);
      deliveries.emplace_back(std::move(found->second.listener), &result);
      sent_.erase(found);
    }
  }
  for (auto& [listener, result] : deliveries) listener->OnText(std::move(*result));
  hooks_.on_results();
  StartRead(&incoming_);
}

void DetokenizeStream::OnDone(const grpc::Status& status) {
  if (ErrorReason(FromGrpcStatus(status)) == kReasonDraining) {
    absl::MutexLock lock(&mutex_);
    in_order_ = true;
  }
  // The one who waits for this must be the last owner: a channel that goes away on one of gRPC's
  // own threads may have it wait for itself.
  const std::shared_ptr<absl::Notification> done = done_;
  std::exchange(self_, nullptr).reset();
  done->Notify();
}

}  // namespace qwenserve
