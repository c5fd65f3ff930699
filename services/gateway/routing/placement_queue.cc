#include "services/gateway/routing/placement_queue.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/admission/retry_delay.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kSampleInterval = absl::Milliseconds(500);
// Of the predicted wait, what counts once a request is in the queue: what may yet be met must not
// be ended by a prediction that errs a little.
constexpr double kSweepShare = 0.75;

// What counts at the door. Who is refused here can go elsewhere at once, who is ended later has
// waited for nothing, and replicas are none the less busy for a queue that is a little shorter: so
// a tenth for what is wrong with the prediction, and two standard deviations for chance, answers'
// lengths being spread about as widely as their mean.
absl::Duration WaitAtMost(absl::Duration predicted, int64_t requests) {
  return predicted * (1.1 + 2 / std::sqrt(static_cast<double>(std::max<int64_t>(requests, 1))));
}

absl::Status NoReplica(const std::string& model) {
  absl::Status status =
      absl::UnavailableError(absl::StrCat("model '", model, "': no generator is ready"));
  return WithRetryAfter(WithReason(status, kReasonNoWorker), RetryDelay(absl::Seconds(1)));
}

std::string Tenths(absl::Duration duration) {
  return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(100)));
}

absl::Status DeadlineUnreachable(absl::Duration wait, absl::Duration work, absl::Duration left) {
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat("the deadline cannot be met: about ", Tenths(wait), " to wait and ",
                   Tenths(work), " to answer, ", Tenths(left), " left"));
  status = WithReason(std::move(status), kReasonDeadlineUnreachable);
  // Without a wait it would be no better: another try makes no sense.
  if (work > left) return status;
  return WithRetryAfter(std::move(status), RetryDelay(wait + work - left));
}

absl::Status WaitTooLong(absl::Duration wait, absl::Duration limit) {
  absl::Status status = absl::ResourceExhaustedError(absl::StrCat(
      "all replicas are busy: about ", Tenths(wait), " to wait, more than ", Tenths(limit)));
  return WithRetryAfter(WithReason(std::move(status), kReasonQueueFull), RetryDelay(wait - limit));
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

bool IsFiltered(const PlacementRequest& request) {
  return !request.fingerprint.empty() || !request.excluded.empty();
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

// The replicas of a lane during one pass over its front.
class PlacementQueue::Replicas {
 public:
  using Targets = std::vector<std::shared_ptr<PlacementTarget>>;

  explicit Replicas(const Candidates& candidates) : candidates_(candidates) {}

  // What the request allows.
  const Targets& For(const PlacementRequest& request) {
    if (IsFiltered(request)) return filtered_ = candidates_(request);
    if (!all_.has_value()) all_ = candidates_(request);
    return *all_;
  }
  // One of them has ended.
  void Forget() { all_.reset(); }

  bool IsClaimed(const std::string& instance_id) const {
    return std::find(claimed_.begin(), claimed_.end(), instance_id) != claimed_.end();
  }
  void Claim(const std::string& instance_id) { claimed_.push_back(instance_id); }

 private:
  const Candidates& candidates_;
  std::optional<Targets> all_;
  Targets filtered_;
  std::vector<std::string> claimed_;
};

QueueWork PlacementQueue::WorkOf(const Lane& lane, const PlaceCost& cost) {
  const int64_t n = cost.sequences;
  return {n * cost.prompt_tokens, n * lane.predictor.MeanAnswer(cost.max_tokens), 1};
}

PlacementQueue::Entry* PlacementQueue::Insert(PlacementRequest request,
                                              std::shared_ptr<PlacementListener> listener) {
  Lane& lane = lanes_[{request.model, request.tokenizer_hash}];
  if (lane.metrics == nullptr) lane.metrics = &metrics_->OfModel(request.model);
  auto entry = std::make_unique<Entry>();
  entry->lane = &lane;
  entry->key = {PriorityWork::Rank(request.resumed, request.priority), arrivals_++};
  entry->work = WorkOf(lane, request.cost);
  entry->arrived = clock_();
  entry->request = std::move(request);
  entry->listener = std::move(listener);
  lane.work.Add(entry->key.first, entry->work);
  Entry* const raw = entry.get();
  order_[raw->key] = raw;
  entries_[raw->listener.get()] = raw;
  lane.waiting[raw->key] = std::move(entry);
  return raw;
}

std::unique_ptr<PlacementQueue::Entry> PlacementQueue::Remove(Entry* entry) {
  Lane& lane = *entry->lane;
  lane.work.Add(entry->key.first, -entry->work);
  order_.erase(entry->key);
  entries_.erase(entry->listener.get());
  auto found = lane.waiting.find(entry->key);
  std::unique_ptr<Entry> owned = std::move(found->second);
  lane.waiting.erase(found);
  lane.was_empty |= lane.waiting.empty();
  return owned;
}

void PlacementQueue::Refuse(Entry* entry, absl::Status status, Outcomes* outcomes) {
  outcomes->push_back({std::move(Remove(entry)->listener), nullptr, std::move(status)});
}

void PlacementQueue::Shed(Entry* entry, GatewayMetrics::Shed shed, absl::Status status,
                          Outcomes* outcomes) {
  metrics_->sheds[shed]->Increment();
  Refuse(entry, std::move(status), outcomes);
}

bool PlacementQueue::IsNearFront(const Entry& entry) {
  int position = 0;
  for (const auto& [key, other] : entry.lane->waiting) {
    if (other.get() == &entry) return true;
    if (++position > kMaxPassed) return false;
  }
  return false;
}

void PlacementQueue::Place(PlacementRequest request, std::shared_ptr<PlacementListener> listener) {
  const PlacementListener* const id = listener.get();
  const bool resumed = request.resumed;
  Outcomes outcomes;
  {
    absl::MutexLock lock(&mutex_);
    Entry* entry = Insert(std::move(request), std::move(listener));
    Lane& lane = *entry->lane;
    if (IsNearFront(*entry)) {
      Decide(lane, &outcomes);
    } else if (IsFiltered(entry->request) && candidates_(entry->request).empty()) {
      Refuse(entry, NoReplica(entry->request.model), &outcomes);
    }
    if (!resumed && entries_.count(id) > 0) {
      const QueueWork ahead = lane.work.UpTo(entry->key.first);
      entry->predicted = lane.predictor.Wait(ahead, lane.replicas);
      Verdict verdict = Judge(lane, entry->request, ahead, entry->arrived);
      if (!verdict.status.ok()) {
        Shed(entry, verdict.shed, std::move(verdict.status), &outcomes);
      } else if (static_cast<int64_t>(order_.size()) > settings_.max_waiting) {
        Entry* const last = order_.rbegin()->second;
        Shed(last, last == entry ? GatewayMetrics::kShedQueueFull : GatewayMetrics::kShedDisplaced,
             Full(*last->lane, last->key.first), &outcomes);
      }
    }
  }
  Deliver(std::move(outcomes));
}

absl::Status PlacementQueue::Full(const Lane& lane, size_t rank) const {
  absl::Status status = absl::ResourceExhaustedError(absl::StrCat(
      "all replicas are busy and ", settings_.max_waiting, " requests wait that go before"));
  // Until those that go before are through.
  const auto wait = lane.predictor.Wait(lane.work.UpTo(rank), lane.replicas);
  return WithRetryAfter(WithReason(std::move(status), kReasonQueueFull),
                        RetryDelay(wait.value_or(absl::Seconds(1))));
}

PlacementQueue::Verdict PlacementQueue::Judge(const Lane& lane, const PlacementRequest& request,
                                              const QueueWork& ahead, absl::Time now) const {
  const WaitPredictor& predictor = lane.predictor;
  const std::optional<absl::Duration> wait = predictor.Wait(ahead, lane.replicas);
  if (!wait.has_value()) return {absl::OkStatus(), GatewayMetrics::kShedWait};
  const absl::Duration work = predictor.Start(request.cost.prompt_tokens) +
                              predictor.Decode(predictor.LongAnswer(request.cost.max_tokens));
  const absl::Duration left = request.deadline - now;
  const absl::Duration at_most = WaitAtMost(*wait, ahead.requests);
  if (at_most + work > left) {
    return {DeadlineUnreachable(at_most, work, left), GatewayMetrics::kShedDeadline};
  }
  if (settings_.max_wait > absl::ZeroDuration() && *wait > settings_.max_wait) {
    return {WaitTooLong(*wait, settings_.max_wait), GatewayMetrics::kShedWait};
  }
  return {absl::OkStatus(), GatewayMetrics::kShedWait};
}

absl::Status PlacementQueue::Foresee(const PlacementRequest& request) const {
  if (request.resumed) return absl::OkStatus();
  Verdict verdict = {absl::OkStatus(), GatewayMetrics::kShedQueueFull};
  {
    absl::MutexLock lock(&mutex_);
    auto found = lanes_.find({request.model, request.tokenizer_hash});
    // With nobody waiting there may be room.
    if (found == lanes_.end() || found->second.waiting.empty()) return absl::OkStatus();
    const Lane& lane = found->second;
    const size_t rank = PriorityWork::Rank(false, request.priority);
    verdict = Judge(lane, request, lane.work.UpTo(rank), clock_());
    if (verdict.status.ok() && static_cast<int64_t>(order_.size()) >= settings_.max_waiting &&
        order_.rbegin()->first.first <= rank) {
      verdict = {Full(lane, rank), GatewayMetrics::kShedQueueFull};
    }
  }
  if (!verdict.status.ok()) metrics_->sheds[verdict.shed]->Increment();
  return verdict.status;
}

void PlacementQueue::Withdraw(const PlacementListener* listener) {
  std::unique_ptr<Entry> last;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  auto found = entries_.find(listener);
  if (found != entries_.end()) last = Remove(found->second);
}

void PlacementQueue::Pump() {
  Outcomes outcomes;
  {
    absl::MutexLock lock(&mutex_);
    for (auto& [key, lane] : lanes_) {
      if (!lane.waiting.empty()) Decide(lane, &outcomes);
    }
  }
  Deliver(std::move(outcomes));
}

void PlacementQueue::Decide(Lane& lane, Outcomes* outcomes) {
  Replicas replicas(candidates_);
  int passed = 0;
  for (auto next = lane.waiting.begin(); next != lane.waiting.end() && passed <= kMaxPassed;) {
    Entry* const entry = (next++)->second.get();
    if (!IsFiltered(entry->request)) lane.replicas = replicas.For(entry->request).size();
    const size_t before = lane.waiting.size();
    if (!TryPlace(entry, &replicas, outcomes)) return;
    passed += lane.waiting.size() == before;
  }
}

RouteQuery PlacementQueue::QueryOf(const PlacementRequest& request) {
  RouteQuery query;
  if (!request.prefix_keys.empty()) query.key = request.prefix_keys.front();
  query.known = directory_.Find(request.prefix_keys);
  query.tokens = request.cost.sequences * request.cost.EstimatedTokens();
  query.salt = ++salt_;
  return query;
}

std::optional<absl::Status> PlacementQueue::TooLate(const Entry& entry, absl::Time now) const {
  const PlacementRequest& request = entry.request;
  if (request.resumed) return std::nullopt;
  const WaitPredictor& predictor = entry.lane->predictor;
  // When nobody else waits, the place would be empty without it: it may try if only its first
  // token is in time.
  absl::Duration work = predictor.Prefill(request.cost.prompt_tokens);
  if (entry.lane->waiting.size() > 1) {
    work = predictor.Start(request.cost.prompt_tokens) +
           predictor.Decode(predictor.MeanAnswer(request.cost.max_tokens));
  }
  const absl::Duration left = request.deadline - now;
  if (work <= left) return std::nullopt;
  return DeadlineUnreachable(absl::ZeroDuration(), work, left);
}

bool PlacementQueue::Claim(Entry* entry, const std::vector<ReplicaView>& views,
                           Replicas* replicas) {
  const ReplicaView* least = nullptr;
  for (const ReplicaView& view : views) {
    if (replicas->IsClaimed(view.instance_id)) continue;
    if (view.instance_id == entry->claim) {
      least = &view;
      break;
    }
    if (least == nullptr || view.outstanding_tokens < least->outstanding_tokens) least = &view;
  }
  if (least == nullptr) return false;
  entry->claim = least->instance_id;
  replicas->Claim(entry->claim);
  return true;
}

bool PlacementQueue::TryPlace(Entry* entry, Replicas* replicas, Outcomes* outcomes) {
  const PlacementRequest& request = entry->request;
  const absl::Time now = clock_();
  const RouteQuery query = QueryOf(request);
  while (true) {
    const auto& targets = replicas->For(request);
    if (targets.empty()) {
      Refuse(entry, NoReplica(request.model), outcomes);
      return true;
    }
    std::vector<ReplicaView> views;
    views.reserve(targets.size());
    for (const auto& target : targets) {
      views.push_back(target->View(request.cost));
      if (replicas->IsClaimed(views.back().instance_id)) views.back().has_room = false;
    }
    const std::optional<Route> route = choose_(views, query);
    if (!route.has_value()) return Claim(entry, views, replicas);
    if (std::optional<absl::Status> late = TooLate(*entry, now); late.has_value()) {
      Shed(entry, GatewayMetrics::kShedDeadline, *std::move(late), outcomes);
      return true;
    }
    std::shared_ptr<PlacementTarget> target = targets[route->replica];
    if (!target->Reserve(request.cost)) {
      // It ended meanwhile: look again, it is no candidate any more.
      replicas->Forget();
      continue;
    }
    directory_.Record(request.prefix_keys, views[route->replica].instance_id);
    CountPlacement(route->reason, metrics_);
    ModelMetrics& metrics = *entry->lane->metrics;
    if (entry->predicted.has_value()) {
      metrics.predicted_wait.Observe(absl::ToDoubleSeconds(*entry->predicted));
    }
    if (!request.resumed) metrics.actual_wait.Observe(absl::ToDoubleSeconds(now - entry->arrived));
    entry->lane->predictor.OnPlaced(entry->work);
    outcomes->push_back({std::move(Remove(entry)->listener), std::move(target), {}});
    return true;
  }
}

void PlacementQueue::OnReplicas() {
  Outcomes outcomes;
  {
    absl::MutexLock lock(&mutex_);
    for (auto& [key, lane] : lanes_) {
      for (auto next = lane.waiting.begin(); next != lane.waiting.end();) {
        Entry* const entry = (next++)->second.get();
        if (!IsFiltered(entry->request) || !candidates_(entry->request).empty()) continue;
        Refuse(entry, NoReplica(entry->request.model), &outcomes);
      }
    }
  }
  Deliver(std::move(outcomes));
  Pump();
}

void PlacementQueue::OnWork(const std::string& model, const std::string& tokenizer_hash,
                            const ReplicaWork& work) {
  absl::MutexLock lock(&mutex_);
  // Without a lane nobody has asked for it from here.
  auto found = lanes_.find({model, tokenizer_hash});
  if (found != lanes_.end()) found->second.predictor.OnWork(work);
}

void PlacementQueue::Tick(absl::Time now) {
  Outcomes outcomes;
  {
    absl::MutexLock lock(&mutex_);
    if (now - sampled_ < kSampleInterval) return;
    sampled_ = now;
    for (auto& [key, lane] : lanes_) {
      lane.predictor.Sample(now, lane.replicas, !lane.was_empty);
      lane.was_empty = lane.waiting.empty();
      SweepLane(lane, now, &outcomes);
    }
  }
  Deliver(std::move(outcomes));
}

void PlacementQueue::SweepLane(Lane& lane, absl::Time now, Outcomes* outcomes) {
  const WaitPredictor& predictor = lane.predictor;
  QueueWork ahead;
  for (auto next = lane.waiting.begin(); next != lane.waiting.end();) {
    Entry* const entry = (next++)->second.get();
    const PlacementRequest& request = entry->request;
    // What is known of answers' lengths has changed since it came.
    lane.work.Add(entry->key.first, -entry->work);
    entry->work = WorkOf(lane, request.cost);
    lane.work.Add(entry->key.first, entry->work);
    const absl::Duration left = request.deadline - now;
    const absl::Duration wait =
        predictor.Wait(ahead, lane.replicas).value_or(absl::ZeroDuration()) * kSweepShare;
    const absl::Duration work = predictor.Start(request.cost.prompt_tokens) +
                                predictor.Decode(predictor.MeanAnswer(request.cost.max_tokens));
    if (request.resumed || wait + work <= left) {
      ahead += entry->work;
      continue;
    }
    Shed(entry, GatewayMetrics::kShedDeadline, DeadlineUnreachable(wait, work, left), outcomes);
  }
}

void PlacementQueue::Deliver(Outcomes outcomes) {
  for (Outcome& outcome : outcomes) {
    if (outcome.target != nullptr) {
      outcome.listener->OnPlaced(std::move(outcome.target));
    } else {
      outcome.listener->OnNotPlaced(std::move(outcome.status));
    }
  }
}

size_t PlacementQueue::waiting() const {
  absl::MutexLock lock(&mutex_);
  return order_.size();
}

std::map<std::string, size_t> PlacementQueue::depths() const {
  std::map<std::string, size_t> depths;
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, lane] : lanes_) depths[key.first] += lane.waiting.size();
  return depths;
}

}  // namespace qwenserve
