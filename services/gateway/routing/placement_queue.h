#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_PLACEMENT_QUEUE_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_PLACEMENT_QUEUE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/clock.h"
#include "services/gateway/metrics/gateway_metrics.h"
#include "services/gateway/routing/placement.h"
#include "services/gateway/routing/prefix_directory.h"
#include "services/gateway/routing/priority_work.h"
#include "services/gateway/routing/router.h"
#include "services/gateway/routing/wait_predictor.h"

namespace qwenserve {

// A replica that may be given work.
class PlacementTarget : public GeneratorReplica {
 public:
  // Its load as the router sees it; `has_room` is for such a request.
  virtual ReplicaView View(const PlaceCost& cost) const = 0;
  // Takes the places. False when it takes no new work any more.
  virtual bool Reserve(const PlaceCost& cost) = 0;
};

// Whether the replica is one that the request may go to.
bool Allows(const PlacementRequest& request, const v1::ServerHello& hello);

// Where requests wait: a replica is given no more than it can soon work on, so that a request may
// still choose another one, or be cancelled, at no cost. Thread-safe.
//
// Order, for each model: those that lost their replica, then priority, then arrival. A request that
// finds no room, since it is large or allows few replicas, claims one of them, which nobody behind
// it is given until it is placed; so others may pass it elsewhere, but it gets its room as soon as
// that one replica has worked enough off. At most kMaxPassed are passed.
//
// A request is refused at once, rather than kept for nothing, when its wait and work would outlast
// its deadline or the wait alone would be longer than max_wait, as the past lets predict; and it is
// ended while it waits once that has become certain. Until replicas have been busy for a second or
// so nothing is predicted.
//
// Cost: O(log waiting) for each request that comes or goes, and a look at the replicas for each of
// those at the front, kMaxPassed + 1 at most besides those placed. Deadlines are gone through twice
// a second.
class PlacementQueue : public Placer {
 public:
  // The replicas that take new work and that the request Allows.
  using Candidates =
      std::function<std::vector<std::shared_ptr<PlacementTarget>>(const PlacementRequest&)>;

  struct Settings {
    // Of all models together. When more would wait, the newest of the lowest priority has to go.
    int64_t max_waiting = 1024;
    // 0: as long as the request's own deadline allows.
    absl::Duration max_wait = absl::Seconds(60);
  };
  static constexpr int kMaxPassed = 4;

  // ChooseReplica, or another one to compare it with.
  using Choose =
      std::function<std::optional<Route>(absl::Span<const ReplicaView>, const RouteQuery&)>;

  // `salt`: different for each gateway.
  PlacementQueue(Candidates candidates, const Settings& settings, Clock clock, uint64_t salt,
                 GatewayMetrics* metrics, Choose choose = ChooseReplica)
      : candidates_(std::move(candidates)),
        settings_(settings),
        clock_(std::move(clock)),
        choose_(std::move(choose)),
        metrics_(metrics),
        salt_(salt) {}

  // RESOURCE_EXHAUSTED with RetryInfo and the reason QUEUE_FULL or DEADLINE_UNREACHABLE, without
  // RetryInfo when the request's own work outlasts its deadline; UNAVAILABLE when the last replica
  // that it allows is gone.
  void Place(PlacementRequest request, std::shared_ptr<PlacementListener> listener) override;
  void Withdraw(const PlacementListener* listener) override;
  absl::Status Foresee(const PlacementRequest& request) const override;

  // A sequence has ended, or a replica has room again.
  void Pump();
  // A replica came or went.
  void OnReplicas();
  // What a replica of this model has done.
  void OnWork(const std::string& model, const std::string& tokenizer_hash, const ReplicaWork& work);
  // To be called often: measures, and ends what has become hopeless.
  void Tick(absl::Time now);

  size_t waiting() const;
  // By model.
  std::map<std::string, size_t> depths() const;

 private:
  // Rank as of PriorityWork, then arrival: what goes first is least.
  using Key = std::pair<size_t, uint64_t>;
  struct Lane;
  struct Entry {
    PlacementRequest request;
    std::shared_ptr<PlacementListener> listener;
    Lane* lane = nullptr;
    Key key;
    QueueWork work;
    absl::Time arrived;
    std::optional<absl::Duration> predicted;
    // instance_id of the replica that it has claimed.
    std::string claim;
  };
  // The queue of one model and tokenizer hash. It stays, with what it has learned: there are no
  // more than generators have served.
  struct Lane {
    std::map<Key, std::unique_ptr<Entry>> waiting;
    PriorityWork work;
    WaitPredictor predictor;
    ModelMetrics* metrics = nullptr;
    size_t replicas = 0;
    // Nobody waited at some time since the last sample.
    bool was_empty = true;
  };
  struct Outcome {
    std::shared_ptr<PlacementListener> listener;
    std::shared_ptr<PlacementTarget> target;
    absl::Status status;  // without a target
  };
  using Outcomes = std::vector<Outcome>;
  class Replicas;

  Entry* Insert(PlacementRequest request, std::shared_ptr<PlacementListener> listener)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::unique_ptr<Entry> Remove(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Refuse(Entry* entry, absl::Status status, Outcomes* outcomes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Shed(Entry* entry, GatewayMetrics::Shed shed, absl::Status status, Outcomes* outcomes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Decide(Lane& lane, Outcomes* outcomes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the router needs to know; the same for each try.
  RouteQuery QueryOf(const PlacementRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Nothing would come of it in time, though it has room.
  std::optional<absl::Status> TooLate(const Entry& entry, absl::Time now) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Has the entry claim a replica; false when there is none left.
  static bool Claim(Entry* entry, const std::vector<ReplicaView>& views, Replicas* replicas);
  // Places or ends the entry or has it claim a replica; false when there is none left to claim.
  bool TryPlace(Entry* entry, Replicas* replicas, Outcomes* outcomes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SweepLane(Lane& lane, absl::Time now, Outcomes* outcomes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static QueueWork WorkOf(const Lane& lane, const PlaceCost& cost);
  static bool IsNearFront(const Entry& entry);
  // The refusal that a request with so much ahead of it, itself included, deserves.
  struct Verdict {
    absl::Status status;
    GatewayMetrics::Shed shed;
  };
  Verdict Judge(const Lane& lane, const PlacementRequest& request, const QueueWork& ahead,
                absl::Time now) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::Status Full(const Lane& lane, size_t rank) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  static void Deliver(Outcomes outcomes);

  const Candidates candidates_;
  const Settings settings_;
  const Clock clock_;
  const Choose choose_;
  GatewayMetrics* const metrics_;

  mutable absl::Mutex mutex_;
  uint64_t salt_ ABSL_GUARDED_BY(mutex_);
  PrefixDirectory directory_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<std::string, std::string>, Lane> lanes_ ABSL_GUARDED_BY(mutex_);
  std::map<Key, Entry*> order_ ABSL_GUARDED_BY(mutex_);  // of all lanes
  absl::flat_hash_map<const PlacementListener*, Entry*> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t arrivals_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time sampled_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_PLACEMENT_QUEUE_H_
