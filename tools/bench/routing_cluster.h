#ifndef QWENSERVE_TOOLS_BENCH_ROUTING_CLUSTER_H_
#define QWENSERVE_TOOLS_BENCH_ROUTING_CLUSTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "services/gateway/routing/placement_queue.h"
#include "services/gateway/routing/replica_health.h"
#include "services/gateway/routing/replica_load.h"
#include "services/generator/sim_replica.h"

namespace qwenserve {

// Virtual time: runs what is due in order, things of the same time in the order they were planned.
class VirtualTime {
 public:
  absl::Time now() const { return now_; }
  void At(absl::Time time, std::function<void()> action) {
    events_.push({time, next_++, std::move(action)});
  }
  void After(absl::Duration delay, std::function<void()> action) {
    At(now_ + delay, std::move(action));
  }
  void RunUntil(absl::Time end);

 private:
  struct Event {
    absl::Time time;
    uint64_t number;
    std::function<void()> action;
    bool operator<(const Event& other) const {  // the greatest comes first
      return time != other.time ? time > other.time : number > other.number;
    }
  };
  std::priority_queue<Event> events_;
  uint64_t next_ = 0;
  absl::Time now_ = absl::UnixEpoch();
};

class SimulatedReplica;

// One request as the gateways see it.
struct SimulatedRequest {
  PlacementRequest placement;
  std::vector<int32_t> prompt;
  std::vector<int32_t> answer;
  absl::Time arrived;
  int64_t cached_tokens = 0;
  bool counted = false;
  bool has_token = false;
  std::function<void()> on_first_token, on_end;
};

// The session between one gateway and one replica: the same accounts as GeneratorSession keeps.
class SimulatedSession final : public PlacementTarget {
 public:
  SimulatedSession(SimulatedReplica* replica, std::shared_ptr<ReplicaHealth> health,
                   const VirtualTime* time);

  const v1::ServerHello& hello() const override;
  ReplicaView View(const PlaceCost& cost) const override;
  bool Reserve(const PlaceCost& cost) override;
  void Release(const PlaceCost& cost) override {}
  std::optional<uint64_t> Submit(v1::Submit, const PlaceCost&,
                                 std::shared_ptr<SequenceListener>) override {
    return std::nullopt;
  }
  void Cancel(uint64_t) override {}
  void AddCredit(uint64_t, uint32_t) override {}

  void Send(std::shared_ptr<SimulatedRequest> request);
  void OnEvent(const SequenceEvent& event);
  void OnHeartbeat(const v1::EngineStats& stats);
  // The replica is gone; returns what was open.
  std::vector<std::shared_ptr<SimulatedRequest>> Lose();
  bool lost() const { return lost_; }
  ReplicaHealth& health() { return *health_; }

  // Something has ended: the gateway may place more.
  std::function<void()> on_capacity;

 private:
  struct Open {
    std::shared_ptr<SimulatedRequest> request;
    ReplicaLoad::Sequence counted;
  };

  SimulatedReplica* const replica_;
  const std::shared_ptr<ReplicaHealth> health_;
  const VirtualTime* const time_;
  ReplicaLoad load_;
  std::unordered_map<uint64_t, Open> open_;
  bool lost_ = false;
};

// One process of a generator, from its start to its death.
class SimulatedReplica {
 public:
  SimulatedReplica(std::string instance_id, int64_t cache_blocks, VirtualTime* time);

  absl::StatusOr<uint64_t> Submit(const SimulatedRequest& request, SimulatedSession* session);
  void Beat();
  void Die() { alive_ = false; }

  const v1::ServerHello& hello() const { return hello_; }
  std::vector<SimulatedSession*>& sessions() { return sessions_; }
  void set_slowness(double factor) { slowness_ = factor; }

 private:
  void Step();
  void Deliver(const std::vector<SequenceEvent>& events);

  VirtualTime* const time_;
  v1::ServerHello hello_;
  SimReplica replica_;
  std::vector<SimulatedSession*> sessions_;
  std::unordered_map<uint64_t, SimulatedSession*> owners_;
  double slowness_ = 1;
  bool alive_ = true;
  bool stepping_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_ROUTING_CLUSTER_H_
