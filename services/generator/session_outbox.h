#ifndef QWENSERVE_SERVICES_GENERATOR_SESSION_OUTBOX_H_
#define QWENSERVE_SERVICES_GENERATOR_SESSION_OUTBOX_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "qwenserve/v1/generator.pb.h"

namespace qwenserve {

// The generator's outgoing half of one gateway's session: what waits to be written, without any
// transport. The core adds, the transport takes; neither waits for the other. Events
// that pile up while a write is under way leave in one message. Thread-safe.
class SessionOutbox {
 public:
  // What may wait unread before the session is ended.
  static constexpr size_t kMaxPendingBytes = 8u << 20;

  // `wake` is called, without a lock held, when something can be taken after Take() had nothing,
  // and when the session is to end.
  explicit SessionOutbox(std::function<void()> wake) : wake_(std::move(wake)) {}

  void AddHello(v1::ServerHello hello);
  void AddEvents(uint64_t step, std::vector<v1::SequenceEvent> events);
  // Replaces a heartbeat that has not been taken yet: only the newest is of use.
  void SetHeartbeat(v1::Heartbeat heartbeat);
  void AddDraining(v1::Draining draining);

  // The next message to write, or nothing: then `wake` is called when there is one.
  std::optional<v1::SessionResponse> Take();

  // Ends the session with this error: nothing is taken or kept from now on. The first one counts.
  void Fail(absl::Status error);
  // Ends the session with this error once everything that waits has been taken.
  void Close(absl::Status error);

  // What Fail was given; RESOURCE_EXHAUSTED, reason SLOW_CONSUMER, once more than kMaxPendingBytes
  // waited; else OK.
  absl::Status Health() const;
  // What Close was given; OK before. To be asked after Take() had nothing.
  absl::Status Ending() const;

 private:
  void Wake();

  const std::function<void()> wake_;
  mutable absl::Mutex mutex_;
  bool idle_ ABSL_GUARDED_BY(mutex_) = true;  // the last Take() had nothing
  std::optional<v1::ServerHello> hello_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::Draining> draining_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::Heartbeat> heartbeat_ ABSL_GUARDED_BY(mutex_);
  v1::StepEvents events_ ABSL_GUARDED_BY(mutex_);
  size_t pending_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);
  absl::Status ending_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_SESSION_OUTBOX_H_
