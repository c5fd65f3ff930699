#ifndef QWENSERVE_SERVICES_GENERATOR_GENERATOR_CORE_H_
#define QWENSERVE_SERVICES_GENERATOR_GENERATOR_CORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/runtime/engine.h"
#include "qwenserve/v1/generator.pb.h"
#include "services/common/tracing/tracer.h"
#include "services/generator/generator_metrics.h"
#include "services/generator/sequence_timing.h"
#include "services/generator/sequence_trace.h"
#include "services/generator/session_outbox.h"

namespace qwenserve {

// Everything a generator does between its engine and its sessions, without a transport and without
// a clock of its own: time is an argument. Thread-safe.
//
// One lock covers the routes. The engine's reporting thread takes it once per step to hand events
// out; a Submit holds it while the engine takes the sequence in, so that no event can come before
// its route is known. Engine::Submit does not wait for the engine's threads, so neither waits long.
class GeneratorCore {
 public:
  // A gateway that says nothing for this long is gone.
  static constexpr absl::Duration kSilenceLimit = absl::Seconds(5);
  // A gateway needs one.
  static constexpr size_t kMaxSessions = 1024;

  // `hello` is what every session is greeted with. `engine`, `metrics` and `tracer` (null: no
  // tracing) are not owned.
  GeneratorCore(Engine* engine, v1::ServerHello hello, GeneratorMetrics* metrics,
                const Tracer* tracer = nullptr);

  // The engine's step callback, with the time that it came at.
  void OnStep(const StepEvents& events, absl::Time now);

  // --- Sessions -------------------------------------------------------------------------------

  // RESOURCE_EXHAUSTED, reason QUEUE_FULL, when there are kMaxSessions.
  absl::StatusOr<uint64_t> OpenSession(std::shared_ptr<SessionOutbox> outbox, absl::Time now);

  // One message of the gateway. An error ends the session: a first message that is no hello or of
  // an unknown protocol version (FAILED_PRECONDITION, reason PROTOCOL_VERSION), a sequence number
  // used twice. A Submit that is refused is no error: its refusal is its only event.
  absl::Status OnMessage(uint64_t session, const v1::SessionRequest& message, absl::Time now);

  // Cancels what the session still has open.
  void CloseSession(uint64_t session);

  // Ends all sessions with this error, each after its last events. Submits are refused from now on.
  void EndSessions(const absl::Status& error);

  // --- Time -----------------------------------------------------------------------------------

  // To be called every 500 ms: heartbeats, and the end of silent sessions.
  void Beat(absl::Time now);

  // Tells the sessions, also those that begin later, that nothing more should be submitted. What
  // is submitted nevertheless, because a gateway has not heard of it yet, is taken.
  void Drain(absl::Duration time_left, absl::Time now);

  // Sequences not finished, of all sessions.
  size_t open_sequences() const;
  size_t open_sessions() const;

  // OK, or why this replica can't serve: the engine has failed, or a step takes longer than its
  // budget.
  absl::Status Health() const;

  // What the step under way may take before the replica counts as stalled.
  absl::Duration step_budget() const;

 private:
  struct Session {
    std::shared_ptr<SessionOutbox> outbox;
    absl::Time last_heard;
    bool greeted = false;
    absl::flat_hash_map<uint64_t, uint64_t> handles;  // the gateway's number -> engine's handle
  };
  struct Route {
    uint64_t session = 0;
    uint64_t sequence = 0;  // the gateway's number
    uint32_t attempt = 0;
    int64_t prompt_tokens = 0;
    SequenceTimes times;
    SequenceTrace trace;
  };

  absl::Status Greet(Session* session, const v1::ClientHello& hello, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status OnSubmit(uint64_t id, Session* session, const v1::Submit& submit, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TrySubmit(uint64_t id, Session* session, const v1::Submit& submit, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void SendDraining(SessionOutbox* outbox, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Engine* const engine_;
  const v1::ServerHello hello_;
  GeneratorMetrics* const metrics_;
  const Tracer* const tracer_;

  mutable absl::Mutex mutex_;
  SequenceTiming timing_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Time> drain_until_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Time> first_beat_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_session_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::flat_hash_map<uint64_t, Session> sessions_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, Route> routes_ ABSL_GUARDED_BY(mutex_);  // by engine handle
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_GENERATOR_CORE_H_
