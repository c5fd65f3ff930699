#ifndef QWENSERVE_SERVICES_GATEWAY_WORKERS_GENERATOR_SESSION_H_
#define QWENSERVE_SERVICES_GATEWAY_WORKERS_GENERATOR_SESSION_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/security/credentials.h"
#include "qwenserve/v1/generator.grpc.pb.h"
#include "services/common/clock.h"
#include "services/gateway/routing/placement.h"
#include "services/gateway/routing/placement_queue.h"
#include "services/gateway/routing/replica_health.h"
#include "services/gateway/routing/replica_load.h"

namespace qwenserve {

struct SessionSettings {
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // null: plaintext
  absl::Duration handshake_timeout = absl::Seconds(5);
  absl::Duration heartbeat_interval = absl::Milliseconds(500);
  // A generator that says nothing for so long is lost.
  absl::Duration silence_limit = absl::Seconds(2);
  // So long before a draining generator exits, its sequences should go on elsewhere.
  absl::Duration hand_over_before = absl::Seconds(10);
};

// What a session tells its pool. Called without the session's lock.
struct SessionHooks {
  // May refuse the replica.
  std::function<absl::Status(const v1::ServerHello&)> check_hello;
  // Ready, draining or lost.
  std::function<void()> on_change;
  // All events of an engine step have been handed to their listeners.
  std::function<void()> on_step_end;
  // A sequence has ended.
  std::function<void()> on_capacity;
  // Hears how the replica does.
  std::shared_ptr<ReplicaHealth> health;
  // What an engine step has done.
  std::function<void(const v1::ServerHello&, const ReplicaWork&)> on_work;
};

// The one stream to one generator, from Open to its loss; a new one is made to connect again.
// Many calls share it: sequences are its rows, engine steps its messages. Thread-safe.
class GeneratorSession final
    : public PlacementTarget,
      public grpc::ClientBidiReactor<v1::SessionRequest, v1::SessionResponse>,
      public std::enable_shared_from_this<GeneratorSession> {
 public:
  enum class State { kConnecting, kReady, kDraining, kLost };

  GeneratorSession(const SessionSettings& settings, SessionHooks hooks, Clock clock);

  // `client_id` and `version` go into the hello.
  void Open(v1::Generator::Stub* stub, const std::string& client_id, const std::string& version);
  // Heartbeat, silence, handshake.
  void Tick(absl::Time now);
  // Every listener hears of the loss.
  void Close(const std::string& reason, LossCause cause);

  State state() const;
  // Why it was lost.
  std::string reason() const;
  LossCause loss_cause() const;
  v1::EngineStats stats() const;
  absl::Duration silence() const;
  uint32_t open_sequences() const;
  // The transport has ended too; the object may be forgotten.
  bool done() const { return done_->HasBeenNotified(); }
  void WaitDone() { done_->WaitForNotification(); }

  // Once state() is not kConnecting.
  const v1::ServerHello& hello() const override { return hello_; }
  std::optional<uint64_t> Submit(v1::Submit submit, const PlaceCost& reserved,
                                 std::shared_ptr<SequenceListener> listener) override;
  void Cancel(uint64_t sequence) override;
  void AddCredit(uint64_t sequence, uint32_t tokens) override;
  void Release(const PlaceCost& cost) override;
  ReplicaView View(const PlaceCost& cost) const override;
  bool Reserve(const PlaceCost& cost) override;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  struct Sequence {
    std::shared_ptr<SequenceListener> listener;  // null: cancelled
    uint32_t sample = 0;
    uint32_t attempt = 0;  // of this sample
    ReplicaLoad::Sequence counted;
    // For the prediction of others' waits.
    absl::Time last_heard = absl::InfinitePast();
    uint32_t prompt_tokens = 0;
    uint32_t answer_tokens = 0;
  };
  struct Delivery {
    std::shared_ptr<SequenceListener> listener;
    uint32_t sample;
    v1::SequenceEvent* event;  // of the message that was read
  };

  void HandleHello(v1::ServerHello hello);
  void HandleHeartbeat(const v1::EngineStats& stats);
  void HandleStep(v1::StepEvents* step);
  // Asks every listener to let its sequence go on elsewhere.
  void OfferHandOver(LossCause cause);
  // Returns whether the sequence has ended.
  bool Account(const v1::SequenceEvent& event, absl::Time now, Sequence* sequence,
               ReplicaWork* work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // This process was stopped until a moment ago, for longer than anybody may be silent.
  bool WasPaused(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Starts a write when none is under way and something waits.
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool FillWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const SessionSettings settings_;
  const SessionHooks hooks_;
  const Clock clock_;
  std::shared_ptr<GeneratorSession> self_;  // from Open to OnDone
  grpc::ClientContext context_;
  v1::SessionResponse incoming_;  // gRPC's between StartRead and OnReadDone
  v1::ServerHello hello_;         // written once, before kReady
  const std::shared_ptr<absl::Notification> done_ = std::make_shared<absl::Notification>();

  mutable absl::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kConnecting;
  std::string reason_ ABSL_GUARDED_BY(mutex_);
  LossCause loss_cause_ ABSL_GUARDED_BY(mutex_) = LossCause::kEnded;
  absl::Time opened_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_received_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_heartbeat_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_tick_ ABSL_GUARDED_BY(mutex_);
  absl::Time paused_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time hand_over_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  v1::EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  ReplicaLoad load_ ABSL_GUARDED_BY(mutex_);

  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 1;
  std::unordered_map<uint64_t, Sequence> sequences_ ABSL_GUARDED_BY(mutex_);

  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  v1::SessionRequest outgoing_;  // gRPC's while writing_
  std::deque<v1::SessionRequest> submits_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> cancels_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint32_t> credits_ ABSL_GUARDED_BY(mutex_);
  bool heartbeat_due_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_WORKERS_GENERATOR_SESSION_H_
