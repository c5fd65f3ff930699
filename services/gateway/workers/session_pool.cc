#include "services/gateway/workers/session_pool.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "services/common/grpc_settings.h"
#include "services/common/proto_time.h"
#include "services/common/version.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

using State = GeneratorSession::State;

bool IsUp(State state) { return state == State::kReady || state == State::kDraining; }

v1::ProcessState ToProcessState(State state) {
  switch (state) {
    case State::kConnecting:
      return v1::PROCESS_STATE_STARTING;
    case State::kReady:
      return v1::PROCESS_STATE_SERVING;
    case State::kDraining:
      return v1::PROCESS_STATE_DRAINING;
    case State::kLost:
      break;
  }
  return v1::PROCESS_STATE_NOT_SERVING;
}

}  // namespace

SessionPool::SessionPool(const SessionSettings& settings, const HealthSettings& health,
                         std::string client_id, Hooks hooks, Clock clock, GatewayMetrics* metrics)
    : settings_(settings),
      client_id_(std::move(client_id)),
      hooks_(std::move(hooks)),
      clock_(std::move(clock)),
      metrics_(metrics),
      health_(health) {}

SessionPool::~SessionPool() {
  absl::MutexLock lock(&mutex_);
  QS_CHECK(shut_down_ || endpoints_.empty());
}

void SessionPool::SetAddresses(const std::vector<std::string>& addresses) {
  const std::set<std::string> listed(addresses.begin(), addresses.end());
  absl::MutexLock lock(&mutex_);
  for (auto& [address, endpoint] : endpoints_) endpoint.listed = listed.count(address) > 0;
  for (const std::string& address : listed) {
    Endpoint& endpoint = endpoints_[address];
    if (endpoint.stub == nullptr) {
      endpoint.stub = v1::Generator::NewStub(MakeWorkerChannel(address, settings_.credentials));
      endpoint.health = health_.Of(address);
    }
  }
}

void SessionPool::Tick(absl::Time now) {
  std::vector<std::shared_ptr<GeneratorSession>> sessions;
  std::vector<std::pair<std::shared_ptr<GeneratorSession>, std::string>> superfluous;
  int ready = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (shut_down_) return;
    ended_.erase(std::remove_if(ended_.begin(), ended_.end(),
                                [](const auto& session) { return session.use_count() == 1; }),
                 ended_.end());
    for (auto it = endpoints_.begin(); it != endpoints_.end();) {
      Endpoint& endpoint = it->second;
      Review(it->first, endpoint, now);
      if (endpoint.session == nullptr && !endpoint.listed) {
        health_.Forget(it->first);
        it = endpoints_.erase(it);
        continue;
      }
      if (endpoint.session == nullptr && endpoint.backoff.Due(now)) {
        endpoint.session = Connect(it->first);
      }
      if (endpoint.session != nullptr) {
        ready += endpoint.session->state() == State::kReady;
        sessions.push_back(endpoint.session);
        if (!endpoint.listed && endpoint.session->open_sequences() == 0) {
          superfluous.emplace_back(endpoint.session, "its address left the list");
        }
        // Both may have said hello before either was ready.
        const std::string same = SameReplica(it->first, endpoint);
        if (!same.empty()) superfluous.emplace_back(endpoint.session, same);
      }
      ++it;
    }
  }
  metrics_->generators_ready.Set(ready);
  JudgeHealth(now);
  for (const auto& session : sessions) session->Tick(now);
  for (const auto& [session, reason] : superfluous) session->Close(reason, LossCause::kDraining);
}

std::shared_ptr<GeneratorSession> SessionPool::Connect(const std::string& address) {
  SessionHooks hooks;
  hooks.check_hello = [this, address](const v1::ServerHello& hello) {
    return CheckHello(address, hello);
  };
  hooks.on_change = hooks_.on_change;
  hooks.on_step_end = hooks_.on_step_end;
  hooks.on_capacity = hooks_.on_capacity;
  hooks.health = endpoints_[address].health;
  hooks.on_work = hooks_.on_work;
  auto session = std::make_shared<GeneratorSession>(settings_, std::move(hooks), clock_);
  session->Open(endpoints_[address].stub.get(), client_id_, std::string(Version()));
  return session;
}

absl::Status SessionPool::CheckHello(const std::string& address,
                                     const v1::ServerHello& hello) const {
  if (hello.instance_id().empty() || hello.model().empty()) {
    return absl::InvalidArgumentError("its hello has no instance_id or no model");
  }
  absl::MutexLock lock(&mutex_);
  for (const auto& [other_address, other] : endpoints_) {
    if (other_address != address && IsReplica(other, hello.instance_id())) {
      return absl::AlreadyExistsError(absl::StrCat("the same replica as ", other_address));
    }
  }
  return absl::OkStatus();
}

bool SessionPool::IsReplica(const Endpoint& endpoint, const std::string& instance_id) {
  return endpoint.session != nullptr && IsUp(endpoint.session->state()) &&
         endpoint.session->hello().instance_id() == instance_id;
}

std::string SessionPool::SameReplica(const std::string& address, const Endpoint& endpoint) const {
  if (!IsUp(endpoint.session->state())) return "";
  const std::string& instance_id = endpoint.session->hello().instance_id();
  for (const auto& [other_address, other] : endpoints_) {
    // The first of them stays.
    if (other_address >= address) break;
    if (IsReplica(other, instance_id)) return absl::StrCat("the same replica as ", other_address);
  }
  return "";
}

void SessionPool::Review(const std::string& address, Endpoint& endpoint, absl::Time now) {
  if (endpoint.session == nullptr) return;
  const State state = endpoint.session->state();
  if (IsUp(state) && !endpoint.was_ready) {
    endpoint.was_ready = true;
    endpoint.backoff.OnSuccess();
    endpoint.last_hello = endpoint.session->hello();
    endpoint.last_reason.clear();
    endpoint.health->OnConnected(endpoint.last_hello->model(), endpoint.last_hello->instance_id(),
                                 now);
    spdlog::info("generator {} at {} is connected, model {}", endpoint.last_hello->instance_id(),
                 address, endpoint.last_hello->model());
  }
  if (!endpoint.session->done()) return;
  const std::string reason = endpoint.session->reason();
  if (endpoint.was_ready) {
    // One that goes in order, as in an update, is no loss; nor is it its fault that this process
    // stood still.
    const LossCause cause = endpoint.session->loss_cause();
    const bool its_fault = cause != LossCause::kDraining && cause != LossCause::kPaused;
    if (its_fault) metrics_->generators_lost.Increment();
    endpoint.health->OnLost(its_fault && endpoint.session->open_sequences() > 0, now);
  }
  if (endpoint.was_ready || reason != endpoint.last_reason) {
    spdlog::warn("generator at {}: {}", address, reason);
  }
  endpoint.last_reason = reason;
  endpoint.was_ready = false;
  ended_.push_back(std::exchange(endpoint.session, nullptr));
  endpoint.backoff.OnFailure(now);
}

void SessionPool::JudgeHealth(absl::Time now) {
  const FleetHealth::Report report = health_.Tick(now);
  for (const std::string& note : report.notes) spdlog::warn("{}", note);
  metrics_->ejected_errors.Increment(report.ejected_for_errors);
  metrics_->ejected_latency.Increment(report.ejected_for_latency);
  metrics_->breakers_opened.Increment(static_cast<double>(report.breakers_opened));
  metrics_->generators_ejected.Set(report.ejected);
  metrics_->generators_breaker_open.Set(report.breaker_open);
}

void SessionPool::Shutdown() {
  std::map<std::string, Endpoint> endpoints;
  std::vector<std::shared_ptr<GeneratorSession>> ended;
  {
    absl::MutexLock lock(&mutex_);
    shut_down_ = true;
    ended.swap(ended_);
    endpoints = std::exchange(endpoints_, {});
  }
  for (auto& [address, endpoint] : endpoints) {
    if (endpoint.session == nullptr) continue;
    endpoint.session->Close("the gateway shuts down", LossCause::kDraining);
    endpoint.session->WaitDone();
  }
}

std::vector<std::shared_ptr<PlacementTarget>> SessionPool::Candidates(
    const PlacementRequest& request) const {
  std::vector<std::shared_ptr<PlacementTarget>> targets, doubtful;
  const absl::Time now = clock_();
  absl::MutexLock lock(&mutex_);
  for (const auto& [address, endpoint] : endpoints_) {
    if (!endpoint.listed || endpoint.session == nullptr) continue;
    if (endpoint.session->state() != State::kReady) continue;
    const v1::ServerHello& hello = endpoint.session->hello();
    if (!Allows(request, hello)) continue;
    (endpoint.health->Admits(now) ? targets : doubtful).push_back(endpoint.session);
  }
  return targets.empty() ? doubtful : targets;
}

std::vector<KnownGenerator> SessionPool::Known() const {
  std::vector<KnownGenerator> known;
  absl::MutexLock lock(&mutex_);
  for (const auto& [address, endpoint] : endpoints_) {
    const State state = endpoint.session == nullptr ? State::kLost : endpoint.session->state();
    if (IsUp(state)) {
      const bool ready = state == State::kReady && endpoint.listed;
      known.push_back({endpoint.session->hello(), ready});
    } else if (endpoint.last_hello.has_value()) {
      known.push_back({*endpoint.last_hello, false});
    }
  }
  return known;
}

std::map<std::string, ModelLoad> SessionPool::Loads() const {
  std::map<std::string, ModelLoad> loads;
  absl::MutexLock lock(&mutex_);
  for (const auto& [address, endpoint] : endpoints_) {
    if (endpoint.session == nullptr) continue;
    const State state = endpoint.session->state();
    if (!IsUp(state)) continue;
    const v1::ServerHello& hello = endpoint.session->hello();
    const v1::EngineStats stats = endpoint.session->stats();
    ModelLoad& load = loads[hello.model()];
    load.replicas += state == State::kReady && endpoint.listed;
    load.running += stats.running();
    load.waiting += stats.waiting();
    load.block_tokens = hello.limits().block_tokens();
    load.total_blocks += static_cast<int64_t>(hello.limits().total_blocks());
    // 0 of 0 until its first heartbeat.
    load.used_blocks += static_cast<int64_t>(stats.total_blocks() - stats.free_blocks());
  }
  return loads;
}

void SessionPool::FillStatus(v1::GetStatusResponse* status) const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [address, endpoint] : endpoints_) {
    v1::WorkerStatus* worker = status->add_workers();
    worker->set_role("generator");
    worker->set_address(address);
    worker->set_reason(endpoint.last_reason);
    worker->set_state(v1::PROCESS_STATE_NOT_SERVING);
    if (endpoint.last_hello.has_value()) {
      worker->set_instance_id(endpoint.last_hello->instance_id());
      worker->set_model(endpoint.last_hello->model());
    }
    if (endpoint.session == nullptr) continue;
    worker->set_state(ToProcessState(endpoint.session->state()));
    *worker->mutable_engine() = endpoint.session->stats();
    ToProtoDuration(endpoint.session->silence(), worker->mutable_last_seen());
    worker->set_requests_in_flight(endpoint.session->open_sequences());
  }
}

}  // namespace qwenserve
