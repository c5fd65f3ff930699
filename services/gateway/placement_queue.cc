#include "services/gateway/placement_queue.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/error_details.h"

namespace qwenserve {
namespace {

absl::Status QueueFull(size_t waiting) {
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat("all replicas are busy and ", waiting, " requests wait already"));
  return WithRetryAfter(WithReason(status, kReasonQueueFull), absl::Seconds(1));
}

absl::Status NoReplica(const std::string& model) {
  absl::Status status =
      absl::UnavailableError(absl::StrCat("model '", model, "': no generator is ready"));
  return WithRetryAfter(WithReason(status, kReasonNoWorker), absl::Seconds(1));
}

void CountPlacement(RouteReason reason, GatewayMetrics* metrics) {
  switch (reason) {
    case RouteReason::kKnownPrefix:
      metrics->placed_known_prefix.Increment();
      return;
    case RouteReason::kHome:
      metrics->placed_home.Increment();
      return;
    case RouteReason::kLeastLoad:
      metrics->placed_least_load.Increment();
      return;
  }
}

}  // namespace

bool Allows(const PlacementRequest& request, const v1::ServerHello& hello) {
  if (hello.model() != request.model || hello.tokenizer_hash() != request.tokenizer_hash) {
    return false;
  }
  if (!request.fingerprint.empty() && hello.numerics_fingerprint() != request.fingerprint) {
    return false;
  }
  return std::find(request.excluded.begin(), request.excluded.end(), hello.instance_id()) ==
         request.excluded.end();
}

void PlacementQueue::Place(PlacementRequest request, std::shared_ptr<PlacementListener> listener) {
  size_t full = 0;
  {
    absl::MutexLock lock(&mutex_);
    auto position = std::find_if(waiting_.rbegin(), waiting_.rend(), [&](const Waiting& other) {
                      return other.request.priority >= request.priority;
                    }).base();
    waiting_.insert(position, {std::move(request), listener});
  }
  Pump();
  {
    absl::MutexLock lock(&mutex_);
    if (waiting_.size() <= max_waiting_) return;
    // The newest one goes, unless it has just been placed.
    auto own = std::find_if(waiting_.begin(), waiting_.end(),
                            [&](const Waiting& other) { return other.listener == listener; });
    if (own == waiting_.end()) return;
    waiting_.erase(own);
    full = waiting_.size();
  }
  listener->OnNotPlaced(QueueFull(full));
}

void PlacementQueue::Withdraw(const PlacementListener* listener) {
  std::shared_ptr<PlacementListener> last;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  auto found = std::find_if(waiting_.begin(), waiting_.end(),
                            [&](const Waiting& other) { return other.listener.get() == listener; });
  if (found == waiting_.end()) return;
  last = std::move(found->listener);
  waiting_.erase(found);
}

void PlacementQueue::Pump() {
  std::vector<Outcome> outcomes;
  {
    absl::MutexLock lock(&mutex_);
    outcomes = Decide();
  }
  for (Outcome& outcome : outcomes) {
    if (outcome.target != nullptr) {
      outcome.listener->OnPlaced(std::move(outcome.target));
    } else {
      outcome.listener->OnNotPlaced(NoReplica(outcome.model));
    }
  }
}

std::shared_ptr<PlacementTarget> PlacementQueue::Choice(const PlacementRequest& request,
                                                        bool* none_left) {
  RouteQuery query;
  if (!request.prefix_keys.empty()) query.key = request.prefix_keys.front();
  query.known = directory_.Find(request.prefix_keys);
  query.tokens = request.cost.sequences * request.cost.EstimatedTokens();
  query.salt = ++salt_;
  while (true) {
    const auto targets = candidates_(request);
    *none_left = targets.empty();
    std::vector<ReplicaView> views;
    views.reserve(targets.size());
    for (const auto& target : targets) views.push_back(target->View(request.cost));
    const std::optional<Route> route = choose_(views, query);
    if (!route.has_value()) return nullptr;
    const std::shared_ptr<PlacementTarget>& target = targets[route->replica];
    // It ended meanwhile: look again, it is no candidate any more.
    if (!target->Reserve(request.cost)) continue;
    directory_.Record(request.prefix_keys, views[route->replica].instance_id);
    CountPlacement(route->reason, metrics_);
    return target;
  }
}

std::vector<PlacementQueue::Outcome> PlacementQueue::Decide() {
  std::vector<Outcome> outcomes;
  std::set<std::string> blocked;  // models whose next request has to wait
  for (auto waiting = waiting_.begin(); waiting != waiting_.end();) {
    const PlacementRequest& request = waiting->request;
    if (blocked.count(request.model) > 0) {
      ++waiting;
      continue;
    }
    bool none_left = false;
    std::shared_ptr<PlacementTarget> target = Choice(request, &none_left);
    if (target == nullptr && !none_left) {
      blocked.insert(request.model);
      ++waiting;
      continue;
    }
    outcomes.push_back({std::move(waiting->listener), std::move(target), request.model});
    waiting = waiting_.erase(waiting);
  }
  return outcomes;
}

size_t PlacementQueue::waiting() const {
  absl::MutexLock lock(&mutex_);
  return waiting_.size();
}

}  // namespace qwenserve
