#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_GENERATE_CALL_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_GENERATE_CALL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "qwenserve/v1/admin.pb.h"
#include "qwenserve/v1/inference.pb.h"
#include "services/common/clock.h"
#include "services/gateway/admission/admission.h"
#include "services/gateway/admission/key_limits.h"
#include "services/gateway/answer/choice.h"
#include "services/gateway/answer/text_service.h"
#include "services/gateway/auth/cache_salt.h"
#include "services/gateway/call/access_log.h"
#include "services/gateway/call/call_trace.h"
#include "services/gateway/call/failover.h"
#include "services/gateway/call/packed_ids.h"
#include "services/gateway/call/request_validation.h"
#include "services/gateway/metrics/gateway_metrics.h"
#include "services/gateway/routing/model_catalog.h"
#include "services/gateway/routing/placement.h"

namespace qwenserve {

// The transport of a call: a gRPC reactor or an HTTP connection.
class CallSink {
 public:
  virtual ~CallSink() = default;
  // GenerateCall::Next may have something. Called without locks, from any thread.
  virtual void Wake() = 0;
  // The client does not read: end the connection without waiting for it.
  virtual void Drop() = 0;
};

struct CallSettings {
  absl::Duration max_request_time = absl::Seconds(600);
  // A client that leaves a message untaken for so long is dropped.
  absl::Duration slow_client_timeout = absl::Seconds(60);
  // Tokens that a generator may be ahead of the client.
  int64_t credit_window = 256;
  // How long an answer waits for a replica to go on at when no equal one is there.
  absl::Duration failover_wait = absl::Seconds(5);
};

// What calls share. Outlives them all.
struct CallServices {
  Admission* admission = nullptr;
  KeyLimits* key_limits = nullptr;
  TextService* text = nullptr;
  Placer* placer = nullptr;
  std::function<std::shared_ptr<const ModelCatalog>()> catalog;
  GatewayMetrics* metrics = nullptr;
  RetryBudget* retries = nullptr;
  Clock clock;
  CallSettings settings;
  AccessLog* access_log = nullptr;        // null: none
  const CacheSalt* cache_salt = nullptr;  // null: the client's own is used as it is
  const Tracer* tracer = nullptr;         // null: no tracing
};

// What a transport has received.
struct IncomingCall {
  Caller caller;
  absl::StatusOr<GenerateRequest> request;  // or what is wrong with it
  size_t bytes = 0;                         // as sent
  std::shared_ptr<void> open = nullptr;     // kept by the transport until the call's end
};

// One generation from its request to its terminal status, without knowledge of any transport:
// prepare the prompt, wait for a replica, submit the samples, turn their ids into text, hand it
// out as fast as the client takes it. The transport pulls: after each Wake, and after each message
// that the client has taken, it asks Next for more.
//
// A sample that loses its replica goes on at another one of equal numerics, which is told the ids
// that have come so far: each sample for itself, wherever it is in its answer (Failover decides,
// generate_call_failover.cc does it).
//
// Thread-safe. Locks: this one's is taken before those of the services, never after them.
class GenerateCall final : public SequenceListener,
                           public TextListener,
                           public PlacementListener,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // Nothing now; Started, first; deltas; Finished, after which the call ends with OK; or how it
  // ends otherwise.
  using Output = std::variant<std::monostate, v1::Started, AnswerDelta, v1::Finished, absl::Status>;

  // `deadline`: the client's, on the services' clock.
  GenerateCall(GatewayMetrics::Method method, absl::Time deadline, const CallServices& services,
               std::shared_ptr<CallSink> sink);

  void Start(IncomingCall incoming);

  // Hands out the next message; while one is handed out and not Taken, nothing.
  Output Next();
  // The client has taken the message of the last Next.
  void Taken();
  // The client is gone.
  void Abort();
  // The client is there, but has taken too little for too long: SLOW_CONSUMER.
  void AbortSlowClient();
  // What the call counts as of the gateway's memory, for a transport that has all of the answer and
  // must still send it. After the last Next only.
  Admission::Ticket TakeMemory();
  // Called regularly: deadline, slow client.
  void Tick(absl::Time now);

  // Without content. False once the call has ended.
  bool Summarize(v1::RequestSummary* summary) const;
  // Times that a sample went on at another replica, and replicas that have worked on the request.
  uint32_t failovers() const;
  uint32_t replicas() const;

  void OnPlaced(std::shared_ptr<GeneratorReplica> replica) override;
  void OnNotPlaced(absl::Status status) override;
  void OnSequenceEvent(uint32_t sample, v1::SequenceEvent event) override;
  void OnGeneratorLost(uint32_t sample, uint32_t attempt, LossCause cause) override;
  void OnHandOver(uint32_t sample, uint32_t attempt, LossCause cause) override;
  void OnText(v1::DetokenizeResult result) override;
  void OnTextFailed(uint64_t key, absl::Status status) override;

 private:
  enum class Phase { kNew, kPreparing, kPlacing, kRunning, kEnded };

  // One sample waits for a place on its own.
  class Relocation;

  struct Sample {
    explicit Sample(Choice::Settings settings) : choice(std::move(settings)) {}

    Choice choice;
    // No generator has finished it, and there is need for more of it.
    bool open = true;
    std::shared_ptr<GeneratorReplica> replica;  // that has it; null: none
    uint64_t sequence = 0;                      // there
    bool begun = false;                         // the replica has sent something of it
    std::vector<uint32_t> ids;                  // all that have been received

    // It has lost its replica, or is about to leave it.
    std::shared_ptr<Relocation> relocation;
    LossCause cause = LossCause::kEnded;
    absl::Status refusal;
    absl::Time seek_at = absl::InfiniteFuture();  // with neither replica nor relocation
    absl::Time last_ids;
    absl::Time last_token = absl::InfinitePast();  // that was decoded
    bool in_gap = false;  // has gone on elsewhere, and nothing has come from there

    AttemptSpan attempt;  // while a replica has it
    Span queue;           // while it seeks one again
  };

  // A message that is with the transport.
  struct HandedOut {
    absl::Time at;
    uint32_t choice = 0;
    uint32_t tokens = 0;  // of its answer
  };

  // A sample's place to ask for, without the lock.
  struct Seeking {
    PlacementRequest request;
    std::shared_ptr<Relocation> relocation;
  };

  absl::Status Admit(IncomingCall incoming) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnPrepared(absl::StatusOr<v1::PrepareResponse> response);
  absl::StatusOr<PlacementRequest> Plan(v1::PrepareResponse response)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Memory of the answer as far as it may come without being asked for again.
  absl::Status HoldAnswer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SubmitAll(const std::shared_ptr<GeneratorReplica>& replica)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TakeEvent(Sample& sample, v1::SequenceEvent& event)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void KeepIds(Sample& sample, const v1::SequenceEvent& event)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RecordTokens(Sample& sample, int tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Advance(Sample& sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Nothing more is needed from any generator.
  void Close(Sample& sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Sends what is left of the sample to a replica with a place of this cost for it.
  void Submit(Sample& sample, const std::shared_ptr<GeneratorReplica>& replica,
              const PlaceCost& reserved) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnFirstSubmit(const v1::ServerHello& hello) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the sample should leave a replica that still has it.
  bool MayMove(const Sample& sample, LossCause cause) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The replica has the sample no more, and it seeks another one.
  void Lose(Sample& sample, LossCause cause) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The sample parts from its replica. False: it must not go on, and the call has ended.
  bool Leave(Sample& sample, LossCause cause) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Seek(Sample& sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StopSeeking(Sample& sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Asks for the places, without the lock.
  void PlaceAll(std::vector<Seeking> seeking);
  void OnRelocated(const Relocation* relocation, std::shared_ptr<GeneratorReplica> replica);
  void OnNotRelocated(const Relocation* relocation);
  Sample* Find(const Relocation* relocation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t IndexOf(const Sample& sample) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The call's end with an error: at once for workers, after what is decoded for the client.
  void End(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndSlowClient() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandOut(uint32_t choice, uint32_t tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::Finished MakeFinished() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RecordEnd(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountCancel() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  AccessRecord MakeRecord(const absl::Status& status) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t TokensSent() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GatewayMetrics::Method method_;
  const CallServices& services_;
  const std::shared_ptr<CallSink> sink_;
  const absl::Time start_;
  const absl::Time deadline_;

  mutable absl::Mutex mutex_;
  Span span_ ABSL_GUARDED_BY(mutex_);
  Span prepare_span_ ABSL_GUARDED_BY(mutex_);
  Span queue_span_ ABSL_GUARDED_BY(mutex_);  // of the first placement
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kNew;
  KeyLimits::Ticket key_ticket_ ABSL_GUARDED_BY(mutex_);
  Admission::Ticket ticket_ ABSL_GUARDED_BY(mutex_);
  GenerateRequest request_ ABSL_GUARDED_BY(mutex_);
  ServedModel model_ ABSL_GUARDED_BY(mutex_);
  ModelMetrics* model_metrics_ ABSL_GUARDED_BY(mutex_) = nullptr;  // once model_ is known
  std::function<void()> cancel_prepare_ ABSL_GUARDED_BY(mutex_);
  v1::PrepareResponse prompt_ ABSL_GUARDED_BY(mutex_);  // until it is submitted
  uint32_t prompt_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t cached_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t max_tokens_ ABSL_GUARDED_BY(mutex_) = 0;

  PlacementRequest plan_ ABSL_GUARDED_BY(mutex_);  // of the first placement
  // What is the same for all samples and attempts; the prompt, which is long and seldom needed
  // twice, is in `prompt_ids_`.
  v1::Submit submit_ ABSL_GUARDED_BY(mutex_);
  PackedIds prompt_ids_ ABSL_GUARDED_BY(mutex_);
  std::string fingerprint_ ABSL_GUARDED_BY(mutex_);
  bool submitted_ ABSL_GUARDED_BY(mutex_) = false;
  std::string worker_instance_id_ ABSL_GUARDED_BY(mutex_);  // the last one
  std::optional<Failover> failover_ ABSL_GUARDED_BY(mutex_);
  std::vector<Sample> samples_ ABSL_GUARDED_BY(mutex_);
  std::vector<Seeking> seeking_ ABSL_GUARDED_BY(mutex_);
  absl::Time first_token_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();

  std::optional<v1::Started> started_ ABSL_GUARDED_BY(mutex_);
  std::optional<HandedOut> handed_out_ ABSL_GUARDED_BY(mutex_);
  size_t next_choice_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  bool discard_ ABSL_GUARDED_BY(mutex_) = false;
  bool terminal_given_ ABSL_GUARDED_BY(mutex_) = false;
  bool recorded_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_GENERATE_CALL_H_
