#include "services/generator/session_outbox.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {

void SessionOutbox::AddHello(v1::ServerHello hello) {
  {
    absl::MutexLock lock(&mutex_);
    hello_ = std::move(hello);
  }
  Wake();
}

void SessionOutbox::AddEvents(uint64_t step, std::vector<v1::SequenceEvent> events) {
  if (events.empty()) return;
  bool overflowed = false;
  {
    absl::MutexLock lock(&mutex_);
    if (!health_.ok()) return;
    events_.set_step(step);
    for (v1::SequenceEvent& event : events) {
      pending_bytes_ += event.ByteSizeLong();
      *events_.add_events() = std::move(event);
    }
    overflowed = pending_bytes_ > kMaxPendingBytes;
  }
  if (overflowed) {
    Fail(
        WithReason(absl::ResourceExhaustedError(absl::StrCat(
                       "the session left more than ", kMaxPendingBytes, " bytes of events unread")),
                   kReasonSlowConsumer));
  } else {
    Wake();
  }
}

void SessionOutbox::SetHeartbeat(v1::Heartbeat heartbeat) {
  {
    absl::MutexLock lock(&mutex_);
    heartbeat_ = std::move(heartbeat);
  }
  Wake();
}

void SessionOutbox::AddDraining(v1::Draining draining) {
  {
    absl::MutexLock lock(&mutex_);
    draining_ = std::move(draining);
  }
  Wake();
}

void SessionOutbox::Wake() {
  {
    absl::MutexLock lock(&mutex_);
    if (!idle_) return;
    idle_ = false;
  }
  wake_();
}

void SessionOutbox::Fail(absl::Status error) {
  {
    absl::MutexLock lock(&mutex_);
    if (!health_.ok()) return;
    health_ = std::move(error);
    events_.Clear();
    pending_bytes_ = 0;
  }
  wake_();
}

void SessionOutbox::Close(absl::Status error) {
  {
    absl::MutexLock lock(&mutex_);
    if (!ending_.ok()) return;
    ending_ = std::move(error);
  }
  wake_();
}

std::optional<v1::SessionResponse> SessionOutbox::Take() {
  absl::MutexLock lock(&mutex_);
  if (!health_.ok()) return std::nullopt;
  v1::SessionResponse response;
  if (hello_) {  // always the first message
    *response.mutable_hello() = *std::move(hello_);
    hello_.reset();
  } else if (!events_.events().empty()) {
    *response.mutable_step_events() = std::move(events_);
    events_.Clear();
    pending_bytes_ = 0;
  } else if (draining_) {
    *response.mutable_draining() = *std::move(draining_);
    draining_.reset();
  } else if (heartbeat_) {
    *response.mutable_heartbeat() = *std::move(heartbeat_);
    heartbeat_.reset();
  } else {
    idle_ = true;
    return std::nullopt;
  }
  return response;
}

absl::Status SessionOutbox::Health() const {
  absl::MutexLock lock(&mutex_);
  return health_;
}

absl::Status SessionOutbox::Ending() const {
  absl::MutexLock lock(&mutex_);
  return ending_;
}

}  // namespace qwenserve
