#include "tools/bench/routing_simulation.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/gateway/metrics/gateway_metrics.h"
#include "tools/bench/routing_cluster.h"

namespace qwenserve {
namespace {

constexpr uint32_t kBlockTokens = 16;
constexpr int kNumIds = 30000;

// The same in every build, unlike the distributions of <random>.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t Next() { return engine_(); }
  double Unit() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  absl::Duration Exponential(absl::Duration mean) { return mean * -std::log(1 - Unit()); }

 private:
  std::mt19937_64 engine_;
};

PlacementQueue::Choose ChooserFor(RoutingPolicy policy, uint64_t seed) {
  auto pick = [](absl::Span<const ReplicaView> views, auto better) -> std::optional<Route> {
    std::optional<size_t> best;
    for (size_t i = 0; i < views.size(); ++i) {
      if (views[i].has_room && (!best.has_value() || better(i, *best))) best = i;
    }
    if (!best.has_value()) return std::nullopt;
    return Route{*best, RouteReason::kLeastLoad};
  };
  using Views = absl::Span<const ReplicaView>;
  switch (policy) {
    case RoutingPolicy::kRoundRobin: {
      auto next = std::make_shared<size_t>(seed);
      return [=](Views views, const RouteQuery&) {
        if (!views.empty()) *next = (*next + 1) % views.size();
        auto distance = [&](size_t i) { return (i + views.size() - *next) % views.size(); };
        const auto route =
            pick(views, [&](size_t a, size_t b) { return distance(a) < distance(b); });
        if (route.has_value()) *next = route->replica;
        return route;
      };
    }
    case RoutingPolicy::kRandom: {
      auto random = std::make_shared<Random>(seed);
      return [=](Views views, const RouteQuery&) {
        const uint64_t draw = random->Next();
        return pick(views, [&](size_t a, size_t b) {
          return StableHash(draw, views[a].instance_id) < StableHash(draw, views[b].instance_id);
        });
      };
    }
    case RoutingPolicy::kLeastLoad:
      return [=](Views views, const RouteQuery&) {
        return pick(views, [&](size_t a, size_t b) {
          return views[a].outstanding_tokens < views[b].outstanding_tokens;
        });
      };
    case RoutingPolicy::kPowerOfTwo:
      return [](Views views, RouteQuery query) {
        query.known.clear();
        query.key.reset();
        return ChooseReplica(views, query);
      };
    case RoutingPolicy::kHomeOnly:
      return [](Views views, RouteQuery query) {
        query.known.clear();
        return ChooseReplica(views, query);
      };
    case RoutingPolicy::kOurs:
      break;
  }
  return ChooseReplica;
}

struct Conversation {
  std::vector<int32_t> ids;
  std::vector<uint64_t> block_hashes;
  int turns_left = 0;
  size_t gateway = 0;

  void Extend(std::vector<int32_t> more) {
    ids.insert(ids.end(), more.begin(), more.end());
    while ((block_hashes.size() + 1) * kBlockTokens <= ids.size()) {
      uint64_t hash = block_hashes.empty() ? 0 : block_hashes.back();
      for (size_t i = 0; i < kBlockTokens; ++i) {
        const int32_t id = ids[block_hashes.size() * kBlockTokens + i];
        hash = StableHash(hash + static_cast<uint64_t>(id), "");
      }
      block_hashes.push_back(hash);
    }
  }
};

class Simulation {
 public:
  explicit Simulation(const RoutingScenario& scenario);
  RoutingResult Run();

 private:
  struct Gateway {
    Gateway(const HealthSettings& health) : metrics("gateway"), counts(metrics), fleet(health) {}
    Metrics metrics;
    GatewayMetrics counts;
    FleetHealth fleet;
    std::vector<std::shared_ptr<SimulatedSession>> sessions;  // by replica; null: none
    std::unique_ptr<PlacementQueue> queue;
  };
  struct Listener final : public PlacementListener {
    Listener(std::shared_ptr<SimulatedRequest> placed, RoutingResult* total)
        : request(std::move(placed)), result(total) {}
    void OnPlaced(std::shared_ptr<GeneratorReplica> replica) override {
      result->digest = StableHash(result->digest, replica->hello().instance_id());
      static_cast<SimulatedSession*>(replica.get())->Send(request);
    }
    void OnNotPlaced(absl::Status) override { ++result->failed; }
    const std::shared_ptr<SimulatedRequest> request;
    RoutingResult* const result;
  };

  void AddGateway(uint64_t salt, const HealthSettings& health);
  void StartReplica(size_t index);
  void KillReplica(size_t index);
  void NextConversation();
  void NextTurn(std::shared_ptr<Conversation> conversation);
  void Place(size_t gateway, std::shared_ptr<SimulatedRequest> request);
  void TickGateways();
  std::vector<int32_t> NewIds(int64_t count);
  size_t DrawGroup();

  const RoutingScenario scenario_;
  VirtualTime time_;
  const absl::Time start_ = time_.now();
  Random random_;
  std::vector<std::vector<int32_t>> system_prompts_;
  std::vector<double> group_weights_;  // cumulative
  std::vector<std::unique_ptr<SimulatedReplica>> replicas_;
  std::vector<std::unique_ptr<SimulatedReplica>> dead_;
  std::vector<int> starts_;
  std::vector<std::unique_ptr<Gateway>> gateways_;
  std::vector<absl::Duration> first_tokens_;
  int64_t prompt_tokens_ = 0, cached_tokens_ = 0, counted_ = 0;
  RoutingResult result_;
};

Simulation::Simulation(const RoutingScenario& scenario)
    : scenario_(scenario), random_(scenario.seed) {
  double weight = 0;
  for (int i = 0; i < scenario_.groups; ++i) {
    system_prompts_.push_back(NewIds(random_.Between(512, 2048)));
    group_weights_.push_back(weight += 1.0 / (i + 1));
  }
  HealthSettings health;
  if (!scenario_.eject) {
    health.outlier_step_factor = 1e9;
    health.outlier_error_margin = 2;
  }
  for (int i = 0; i < scenario_.gateways; ++i) {
    AddGateway(StableHash(scenario_.seed, absl::StrCat("gateway ", i)), health);
  }
  replicas_.resize(scenario_.replicas);
  starts_.resize(scenario_.replicas);
  for (size_t i = 0; i < replicas_.size(); ++i) StartReplica(i);
}

void Simulation::AddGateway(uint64_t salt, const HealthSettings& health) {
  Gateway& gateway = *gateways_.emplace_back(std::make_unique<Gateway>(health));
  gateway.sessions.resize(scenario_.replicas);
  // As SessionPool::Candidates.
  auto candidates = [this, &gateway](const PlacementRequest& request) {
    std::vector<std::shared_ptr<PlacementTarget>> targets, doubtful;
    for (const auto& session : gateway.sessions) {
      if (session == nullptr || !Allows(request, session->hello())) continue;
      (session->health().Admits(time_.now()) ? targets : doubtful).push_back(session);
    }
    return targets.empty() ? doubtful : targets;
  };
  PlacementQueue::Settings settings;
  settings.max_waiting = 1 << 20;
  settings.max_wait = absl::ZeroDuration();
  gateway.queue = std::make_unique<PlacementQueue>(
      candidates, settings, [this] { return time_.now(); }, salt, &gateway.counts,
      ChooserFor(scenario_.policy, salt));
}

void Simulation::StartReplica(size_t index) {
  const std::string address = absl::StrCat("replica-", index);
  replicas_[index] = std::make_unique<SimulatedReplica>(
      absl::StrCat(address, "-", starts_[index]++), scenario_.cache_blocks, &time_);
  for (auto& gateway : gateways_) {
    auto session = std::make_shared<SimulatedSession>(replicas_[index].get(),
                                                      gateway->fleet.Of(address), &time_);
    session->on_capacity = [queue = gateway->queue.get()] { queue->Pump(); };
    gateway->sessions[index] = std::move(session);
    gateway->queue->OnReplicas();
  }
  time_.After(absl::Milliseconds(random_.Between(0, 499)),
              [replica = replicas_[index].get()] { replica->Beat(); });
}

void Simulation::KillReplica(size_t index) {
  replicas_[index]->Die();
  const std::string instance = replicas_[index]->hello().instance_id();
  dead_.push_back(std::move(replicas_[index]));
  for (size_t i = 0; i < gateways_.size(); ++i) {
    const std::shared_ptr<SimulatedSession> session =
        std::exchange(gateways_[i]->sessions[index], nullptr);
    for (auto& request : session->Lose()) {
      ++result_.resubmitted;
      request->placement.excluded.push_back(instance);
      request->placement.resumed = true;
      Place(i, std::move(request));
    }
  }
}

std::vector<int32_t> Simulation::NewIds(int64_t count) {
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(random_.Next() % kNumIds);
  return ids;
}

size_t Simulation::DrawGroup() {
  const double draw = random_.Unit() * group_weights_.back();
  return std::lower_bound(group_weights_.begin(), group_weights_.end(), draw) -
         group_weights_.begin();
}

void Simulation::NextConversation() {
  if (time_.now() > start_ + scenario_.length) return;
  auto conversation = std::make_shared<Conversation>();
  conversation->Extend(system_prompts_[DrawGroup()]);
  conversation->turns_left = 1;
  while (random_.Unit() > 1 / scenario_.mean_turns) ++conversation->turns_left;
  conversation->gateway = random_.Next() % gateways_.size();
  NextTurn(std::move(conversation));
  time_.After(random_.Exponential(absl::Seconds(1 / scenario_.conversations_per_second)),
              [this] { NextConversation(); });
}

void Simulation::NextTurn(std::shared_ptr<Conversation> conversation) {
  if (time_.now() > start_ + scenario_.length || conversation->ids.size() > 12000) return;
  conversation->Extend(NewIds(random_.Between(32, 256)));
  auto request = std::make_shared<SimulatedRequest>();
  request->prompt = conversation->ids;
  request->arrived = time_.now();
  request->counted = time_.now() >= start_ + scenario_.warm_up;
  counted_ += request->counted;
  PlacementRequest& placement = request->placement;
  placement.model = "simulated";
  placement.prefix_keys = PrefixKeys(conversation->block_hashes, kBlockTokens, "");
  placement.cost = {1, static_cast<uint32_t>(request->prompt.size()),
                    static_cast<uint32_t>(random_.Between(64, 256))};
  SimulatedRequest* const raw = request.get();
  request->on_first_token = [this, raw] {
    if (!raw->counted) return;
    const absl::Duration waited = time_.now() - raw->arrived;
    first_tokens_.push_back(waited);
    prompt_tokens_ += static_cast<int64_t>(raw->prompt.size());
    cached_tokens_ += raw->cached_tokens;
    result_.digest = StableHash(result_.digest + absl::ToInt64Microseconds(waited), "");
  };
  request->on_end = [this, raw, conversation] {
    conversation->Extend(raw->answer);
    if (--conversation->turns_left <= 0) return;
    time_.After(random_.Exponential(absl::Seconds(4)),
                [this, conversation] { NextTurn(conversation); });
  };
  if (random_.Unit() < scenario_.roaming) {
    conversation->gateway = random_.Next() % gateways_.size();
  }
  Place(conversation->gateway, std::move(request));
}

void Simulation::Place(size_t gateway, std::shared_ptr<SimulatedRequest> request) {
  PlacementRequest placement = request->placement;
  gateways_[gateway]->queue->Place(std::move(placement),
                                   std::make_shared<Listener>(std::move(request), &result_));
}

void Simulation::TickGateways() {
  for (auto& gateway : gateways_) {
    gateway->queue->Tick(time_.now());
    const FleetHealth::Report report = gateway->fleet.Tick(time_.now());
    result_.ejections += report.ejected_for_errors + report.ejected_for_latency;
  }
  time_.After(absl::Milliseconds(50), [this] { TickGateways(); });
}

RoutingResult Simulation::Run() {
  TickGateways();
  NextConversation();
  if (scenario_.one_slow) {
    time_.At(start_ + scenario_.length / 4, [this] { replicas_[0]->set_slowness(5); });
  }
  if (scenario_.one_dies) {
    const size_t victim = replicas_.size() / 2;
    time_.At(start_ + scenario_.length / 2, [this, victim] { KillReplica(victim); });
    time_.At(start_ + scenario_.length * 7 / 10, [this, victim] { StartReplica(victim); });
  }
  // What is under way at the end has the time to finish.
  time_.RunUntil(start_ + scenario_.length + absl::Minutes(5));
  std::sort(first_tokens_.begin(), first_tokens_.end());
  result_.requests = static_cast<int64_t>(first_tokens_.size());
  result_.failed += counted_ - result_.requests;
  if (first_tokens_.empty()) return result_;
  result_.hit_rate = static_cast<double>(cached_tokens_) / static_cast<double>(prompt_tokens_);
  result_.ttft_p50 = first_tokens_[first_tokens_.size() / 2];
  result_.ttft_p99 = first_tokens_[first_tokens_.size() * 99 / 100];
  return result_;
}

}  // namespace

const char* RoutingPolicyName(RoutingPolicy policy) {
  switch (policy) {
    case RoutingPolicy::kRoundRobin:
      return "round robin";
    case RoutingPolicy::kRandom:
      return "random";
    case RoutingPolicy::kLeastLoad:
      return "least load";
    case RoutingPolicy::kPowerOfTwo:
      return "less loaded of two";
    case RoutingPolicy::kHomeOnly:
      return "homes, no directory";
    case RoutingPolicy::kOurs:
      break;
  }
  return "qwenserve";
}

RoutingResult SimulateRouting(const RoutingScenario& scenario) {
  return Simulation(scenario).Run();
}

}  // namespace qwenserve
