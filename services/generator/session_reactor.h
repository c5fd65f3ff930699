#ifndef QWENSERVE_SERVICES_GENERATOR_SESSION_REACTOR_H_
#define QWENSERVE_SERVICES_GENERATOR_SESSION_REACTOR_H_

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "services/generator/generator_core.h"
#include "services/generator/session_outbox.h"
#include "services/generator/wake_thread.h"

namespace qwenserve {

// Carries one gateway's session over gRPC: reads go to the core, the outbox's messages are written
// one at a time. Owns itself until OnDone; a wake that is still under way keeps it longer.
class SessionReactor : public grpc::ServerBidiReactor<v1::SessionRequest, v1::SessionResponse>,
                       public std::enable_shared_from_this<SessionReactor> {
 public:
  // `core` and `wakes` must outlive the server.
  static SessionReactor* Start(GeneratorCore* core, WakeThread* wakes,
                               grpc::CallbackServerContext* context);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  SessionReactor(GeneratorCore* core, grpc::CallbackServerContext* context)
      : core_(core), context_(context) {}

  // Starts the next write, or finishes when the session is over. Does nothing while a write is
  // under way: OnWriteDone comes back here.
  void Pump();
  void End(absl::Status status);

  GeneratorCore* const core_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<SessionReactor> self_;
  std::shared_ptr<SessionOutbox> outbox_;
  uint64_t session_ = 0;
  v1::SessionRequest request_;
  v1::SessionResponse response_;

  absl::Mutex mutex_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // `status_` is to be the last word
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // Finish was called
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_SESSION_REACTOR_H_
