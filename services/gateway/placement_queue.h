#ifndef QWENSERVE_SERVICES_GATEWAY_PLACEMENT_QUEUE_H_
#define QWENSERVE_SERVICES_GATEWAY_PLACEMENT_QUEUE_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/metrics.h"
#include "services/gateway/call_services.h"
#include "services/gateway/prefix_directory.h"
#include "services/gateway/router.h"

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
// still choose another one, or be cancelled, at no cost. Order: priority, then arrival; a request
// never overtakes another of its model and priority. Thread-safe.
class PlacementQueue : public Placer {
 public:
  // The replicas that take new work and that the request Allows.
  using Candidates =
      std::function<std::vector<std::shared_ptr<PlacementTarget>>(const PlacementRequest&)>;

  // ChooseReplica, or another one to compare it with.
  using Choose =
      std::function<std::optional<Route>(absl::Span<const ReplicaView>, const RouteQuery&)>;

  // `salt`: different for each gateway.
  PlacementQueue(Candidates candidates, size_t max_waiting, uint64_t salt, GatewayMetrics* metrics,
                 Choose choose = ChooseReplica)
      : candidates_(std::move(candidates)),
        max_waiting_(max_waiting),
        choose_(std::move(choose)),
        metrics_(metrics),
        salt_(salt) {}

  // RESOURCE_EXHAUSTED, reason QUEUE_FULL, when too many wait; UNAVAILABLE when the last
  // replica that it allows is gone.
  void Place(PlacementRequest request, std::shared_ptr<PlacementListener> listener) override;
  void Withdraw(const PlacementListener* listener) override;

  // Something has changed: a sequence has ended, a replica came or went.
  void Pump();

  size_t waiting() const;

 private:
  struct Waiting {
    PlacementRequest request;
    std::shared_ptr<PlacementListener> listener;
  };
  struct Outcome {
    std::shared_ptr<PlacementListener> listener;
    std::shared_ptr<PlacementTarget> target;  // null: none is left
    std::string model;
  };

  // The replica for a request, or null: it has to wait, or with `none_left` for nothing.
  std::shared_ptr<PlacementTarget> Choice(const PlacementRequest& request, bool* none_left)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<Outcome> Decide() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Candidates candidates_;
  const size_t max_waiting_;
  const Choose choose_;
  GatewayMetrics* const metrics_;
  mutable absl::Mutex mutex_;
  uint64_t salt_ ABSL_GUARDED_BY(mutex_);
  PrefixDirectory directory_ ABSL_GUARDED_BY(mutex_);
  std::list<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);  // by priority, then arrival
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_PLACEMENT_QUEUE_H_
