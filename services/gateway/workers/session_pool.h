#ifndef QWENSERVE_SERVICES_GATEWAY_WORKERS_SESSION_POOL_H_
#define QWENSERVE_SERVICES_GATEWAY_WORKERS_SESSION_POOL_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "qwenserve/v1/admin.pb.h"
#include "qwenserve/v1/generator.grpc.pb.h"
#include "services/gateway/metrics/gateway_metrics.h"
#include "services/gateway/routing/model_catalog.h"
#include "services/gateway/routing/replica_health.h"
#include "services/gateway/workers/backoff.h"
#include "services/gateway/workers/generator_session.h"

namespace qwenserve {

// One session per generator, kept up as long as its address is listed. An address is where to
// look, the hello's instance_id is who it is: the same replica behind two addresses is used once.
// Thread-safe; does its work in Tick and on gRPC's threads.
class SessionPool {
 public:
  struct Hooks {
    std::function<void()> on_change;  // which replicas are ready
    std::function<void()> on_step_end;
    std::function<void()> on_capacity;
    std::function<void(const v1::ServerHello&, const ReplicaWork&)> on_work;
  };

  SessionPool(const SessionSettings& settings, const HealthSettings& health, std::string client_id,
              Hooks hooks, Clock clock, GatewayMetrics* metrics);
  // Shutdown must have been called.
  ~SessionPool();

  // Addresses that left the list get no new work; their sessions end when idle.
  void SetAddresses(const std::vector<std::string>& addresses);
  // Connects, beats, looks for silence. Call it every 50 ms or so.
  void Tick(absl::Time now);
  // Ends every session and waits for gRPC to let go of them.
  void Shutdown();

  // The replicas that take new work and that the request allows; without those whose health is in
  // doubt, unless there are no others.
  std::vector<std::shared_ptr<PlacementTarget>> Candidates(const PlacementRequest& request) const;
  std::vector<KnownGenerator> Known() const;
  // By model, of the replicas that are up.
  std::map<std::string, ModelLoad> Loads() const;
  void FillStatus(v1::GetStatusResponse* status) const;

 private:
  struct Endpoint {
    std::unique_ptr<v1::Generator::Stub> stub;
    std::shared_ptr<ReplicaHealth> health;
    std::shared_ptr<GeneratorSession> session;
    Backoff backoff;
    bool listed = true;
    bool was_ready = false;
    std::optional<v1::ServerHello> last_hello;
    std::string last_reason;
  };

  absl::Status CheckHello(const std::string& address, const v1::ServerHello& hello) const;
  static bool IsReplica(const Endpoint& endpoint, const std::string& instance_id);
  // Why the endpoint's session is one too many; empty when it is not.
  std::string SameReplica(const std::string& address, const Endpoint& endpoint) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<GeneratorSession> Connect(const std::string& address)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void JudgeHealth(absl::Time now);
  // Takes note of what became of the endpoint's session.
  void Review(const std::string& address, Endpoint& endpoint, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const SessionSettings settings_;
  const std::string client_id_;
  const Hooks hooks_;
  const Clock clock_;
  GatewayMetrics* const metrics_;
  FleetHealth health_;

  mutable absl::Mutex mutex_;
  std::map<std::string, Endpoint> endpoints_ ABSL_GUARDED_BY(mutex_);  // by address
  // Ended, but calls may still refer to them: a channel must not go away on one of gRPC's threads.
  std::vector<std::shared_ptr<GeneratorSession>> ended_ ABSL_GUARDED_BY(mutex_);
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_WORKERS_SESSION_POOL_H_
