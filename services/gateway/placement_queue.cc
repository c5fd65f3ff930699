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

std::vector<PlacementQueue::Outcome> PlacementQueue::Decide() {
  std::vector<Outcome> outcomes;
  std::set<std::string> blocked;  // models whose next request has to wait
  for (auto waiting = waiting_.begin(); waiting != waiting_.end();) {
    const PlacementRequest& request = waiting->request;
    if (blocked.count(request.model) > 0) {
      ++waiting;
      continue;
    }
    auto targets = candidates_(request);
    std::vector<ReplicaView> views;
    for (const auto& target : targets) {
      views.push_back(target->View(request.cost));
    }
    const std::optional<size_t> chosen = ChooseReplica(
        views, request.affinity_key, request.cost.sequences * request.cost.EstimatedTokens());
    std::shared_ptr<PlacementTarget> target;
    if (chosen.has_value()) {
      target = targets[*chosen];
      // It ended meanwhile: look again, it is no candidate any more.
      if (!target->Reserve(request.cost)) continue;
    } else if (!targets.empty()) {
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
