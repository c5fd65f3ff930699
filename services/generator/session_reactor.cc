#include "services/generator/session_reactor.h"

#include <optional>
#include <utility>

#include "engine/base/monotonic_time.h"
#include "services/common/errors/status_mapping.h"

namespace qwenserve {

SessionReactor* SessionReactor::Start(GeneratorCore* core, WakeThread* wakes,
                                      grpc::CallbackServerContext* context) {
  std::shared_ptr<SessionReactor> reactor(new SessionReactor(core, context));
  reactor->self_ = reactor;
  std::weak_ptr<SessionReactor> weak = reactor;
  reactor->outbox_ = std::make_shared<SessionOutbox>([wakes, weak] {
    wakes->Post([weak] {
      if (auto alive = weak.lock()) alive->Pump();
    });
  });
  const absl::StatusOr<uint64_t> session = core->OpenSession(reactor->outbox_, MonotonicNow());
  if (session.ok()) {
    reactor->session_ = *session;
    reactor->StartRead(&reactor->request_);
  } else {
    reactor->End(session.status());
  }
  return reactor.get();
}

void SessionReactor::OnReadDone(bool ok) {
  if (!ok) {  // the gateway has ended its half, or the connection is gone
    End(absl::OkStatus());
    return;
  }
  const absl::Status status = core_->OnMessage(session_, request_, MonotonicNow());
  if (!status.ok()) {
    End(status);
    return;
  }
  StartRead(&request_);
}

void SessionReactor::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) ended_ = true;
  }
  Pump();
}

void SessionReactor::OnCancel() { End(absl::CancelledError("the session was cancelled")); }

void SessionReactor::OnDone() {
  core_->CloseSession(session_);
  std::shared_ptr<SessionReactor> last = std::move(self_);
}

void SessionReactor::End(absl::Status status) {
  {
    absl::MutexLock lock(&mutex_);
    if (!ended_) status_ = std::move(status);
    ended_ = true;
  }
  Pump();
}

void SessionReactor::Pump() {
  const absl::Status failure = outbox_->Health();
  std::optional<absl::Status> last;
  {
    absl::MutexLock lock(&mutex_);
    if (!failure.ok()) {
      if (!ended_) status_ = failure;
      ended_ = true;
      // The peer doesn't read: its write would never end by itself. With the lock held, because
      // the context is gone soon after Finish, which waits for this write.
      if (writing_ && !std::exchange(cancelled_, true)) context_->TryCancel();
    }
    if (writing_ || finished_) return;
    if (!ended_) {
      if (std::optional<v1::SessionResponse> next = outbox_->Take()) {
        response_ = *std::move(next);
        writing_ = true;
      } else {
        status_ = outbox_->Ending();
        if (status_.ok()) return;
        ended_ = true;
      }
    }
    if (ended_) {
      finished_ = true;
      last = status_;
    }
  }
  // Outside the lock, since gRPC may run a reaction on this thread before it returns.
  if (last.has_value()) {
    Finish(ToGrpcStatus(*last));
  } else {
    StartWrite(&response_);
  }
}

}  // namespace qwenserve
