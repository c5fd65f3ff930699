#include "services/generator/session_reactor.h"

#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "services/common/status_mapping.h"

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
  reactor->session_ = core->OpenSession(reactor->outbox_, absl::Now());
  reactor->StartRead(&reactor->request_);
  return reactor.get();
}

void SessionReactor::OnReadDone(bool ok) {
  if (!ok) {  // the gateway has ended its half, or the connection is gone
    End(absl::OkStatus());
    return;
  }
  const absl::Status status = core_->OnMessage(session_, request_, absl::Now());
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
  const absl::Status health = outbox_->Health();
  bool finish = false;
  bool cancel = false;
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    if (!health.ok() && !ended_) {
      ended_ = true;
      status_ = health;
      cancel = writing_;  // the peer doesn't read: its write would never end by itself
    }
    if (!writing_ && !finished_) {
      if (ended_) {
        finished_ = finish = true;
        status = status_;
      } else if (std::optional<v1::SessionResponse> next = outbox_->Take()) {
        response_ = *std::move(next);
        writing_ = true;
      } else {
        return;
      }
    } else if (!cancel) {
      return;
    }
  }
  // Outside the lock, since gRPC may run a reaction on this thread before it returns.
  if (finish) {
    Finish(ToGrpcStatus(status));
  } else if (cancel) {
    context_->TryCancel();
  } else {
    StartWrite(&response_);
  }
}

}  // namespace qwenserve
