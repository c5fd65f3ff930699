#include "tools/bench/routing_cluster.h"

#include <algorithm>

#include "services/common/proto_time.h"

namespace qwenserve {
namespace {

constexpr int32_t kVocab = 32768;
constexpr int64_t kMaxModelLen = 16384;

SimReplicaOptions ReplicaOptions(int64_t cache_blocks) {
  SimReplicaOptions options;
  options.scheduler.max_batch_tokens = 2048;
  options.scheduler.max_running = 32;
  options.scheduler.max_model_len = kMaxModelLen;
  options.scheduler.num_blocks = cache_blocks;
  options.scheduler.vocab_size = kVocab;
  options.scheduler.eos_ids = {kVocab - 1};
  options.scheduler.fingerprint = "simulated";
  options.timing.base = absl::Milliseconds(10);
  options.timing.per_sequence = absl::Microseconds(100);
  options.timing.prefill_rate = 10000;
  options.mean_tokens = 0;
  return options;
}

SimVocabulary Words() {
  SimVocabulary vocabulary;
  for (int32_t id = 0; id < 1024; ++id) vocabulary.words.push_back(id);
  vocabulary.eos_id = kVocab - 1;
  return vocabulary;
}

}  // namespace

void VirtualTime::RunUntil(absl::Time end) {
  while (!events_.empty() && events_.top().time <= end) {
    const std::function<void()> action = events_.top().action;
    now_ = events_.top().time;
    events_.pop();
    action();
  }
  now_ = end;
}

SimulatedSession::SimulatedSession(SimulatedReplica* replica, std::shared_ptr<ReplicaHealth> health,
                                   const VirtualTime* time)
    : replica_(replica), health_(std::move(health)), time_(time) {
  replica->sessions().push_back(this);
  health_->OnConnected(hello().model(), hello().instance_id(), time->now());
}

const v1::ServerHello& SimulatedSession::hello() const { return replica_->hello(); }

ReplicaView SimulatedSession::View(const PlaceCost& cost) const {
  ReplicaView view = load_.View(cost, hello());
  view.share = health_->Share(time_->now());
  return view;
}

bool SimulatedSession::Reserve(const PlaceCost& cost) {
  if (lost_) return false;
  load_.Reserve(cost);
  health_->OnPlaced(time_->now());
  return true;
}

void SimulatedSession::Send(std::shared_ptr<SimulatedRequest> request) {
  const absl::StatusOr<uint64_t> handle = replica_->Submit(*request, this);
  const ReplicaLoad::Sequence counted = ReplicaLoad::OneOf(request->placement.cost);
  if (!handle.ok()) {
    load_.Remove(counted);
    health_->OnEnded(SequenceOutcome::kNeutral, time_->now());
    request->on_end();
    return;
  }
  open_[*handle] = {std::move(request), counted};
}

void SimulatedSession::OnEvent(const SequenceEvent& event) {
  auto found = open_.find(event.sequence);
  if (found == open_.end()) return;
  const std::shared_ptr<SimulatedRequest> request = found->second.request;
  load_.OnTokens(static_cast<uint32_t>(event.ids.size()), &found->second.counted);
  request->answer.insert(request->answer.end(), event.ids.begin(), event.ids.end());
  if (!event.ids.empty()) {
    health_->OnFirstToken(time_->now());
    if (!std::exchange(request->has_token, true)) {
      request->cached_tokens = event.cached_prompt_tokens;
      request->on_first_token();
    }
  }
  if (event.finish == FinishReason::kNone) return;
  load_.Remove(found->second.counted);
  open_.erase(found);
  health_->OnEnded(SequenceOutcome::kSuccess, time_->now());
  request->on_end();
  on_capacity();
}

void SimulatedSession::OnHeartbeat(const v1::EngineStats& stats) {
  const bool was_stalled = load_.stalled();
  load_.OnHeartbeat(stats, static_cast<uint32_t>(open_.size()));
  health_->OnHeartbeat(stats, time_->now());
  if (was_stalled && !load_.stalled()) on_capacity();
}

std::vector<std::shared_ptr<SimulatedRequest>> SimulatedSession::Lose() {
  lost_ = true;
  health_->OnLost(!open_.empty(), time_->now());
  std::vector<std::pair<uint64_t, std::shared_ptr<SimulatedRequest>>> open;
  for (auto& [handle, one] : open_) open.emplace_back(handle, std::move(one.request));
  open_.clear();
  std::sort(open.begin(), open.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::shared_ptr<SimulatedRequest>> requests;
  for (auto& [handle, request] : open) requests.push_back(std::move(request));
  return requests;
}

SimulatedReplica::SimulatedReplica(std::string instance_id, int64_t cache_blocks, VirtualTime* time)
    : time_(time), replica_(ReplicaOptions(cache_blocks), Words(), nullptr) {
  hello_.set_instance_id(std::move(instance_id));
  hello_.set_model("simulated");
  v1::GeneratorLimits* limits = hello_.mutable_limits();
  limits->set_max_running(32);
  limits->set_max_batch_tokens(2048);
  limits->set_max_session_sequences(1024);
  limits->set_max_model_len(kMaxModelLen);
}

absl::StatusOr<uint64_t> SimulatedReplica::Submit(const SimulatedRequest& request,
                                                  SimulatedSession* session) {
  SequenceRequest sequence;
  sequence.prompt_ids = request.prompt;
  sequence.resumed_ids = request.answer;
  sequence.sampling.max_tokens = request.placement.cost.max_tokens;
  sequence.sampling.ignore_eos = true;
  sequence.credit = request.placement.cost.max_tokens;
  SimReplica::Prepared prepared = replica_.Prepare(sequence);
  absl::StatusOr<uint64_t> handle =
      replica_.Submit(std::move(sequence), std::move(prepared), time_->now());
  if (handle.ok()) owners_[*handle] = session;
  // Not from within the gateway's queue, which called.
  if (!stepping_) time_->After(absl::ZeroDuration(), [this] { Step(); });
  return handle;
}

void SimulatedReplica::Step() {
  if (stepping_ || !alive_) return;
  std::vector<SequenceEvent> events;
  const std::optional<absl::Duration> step = replica_.BeginStep(time_->now(), &events);
  stepping_ = step.has_value();
  Deliver(events);
  if (!step.has_value()) return;
  time_->After(*step * slowness_, [this] {
    if (!alive_) return;
    std::vector<SequenceEvent> ended;
    replica_.EndStep(time_->now(), &ended);
    stepping_ = false;
    Deliver(ended);
    Step();
  });
}

void SimulatedReplica::Deliver(const std::vector<SequenceEvent>& events) {
  for (const SequenceEvent& event : events) {
    auto owner = owners_.find(event.sequence);
    if (owner == owners_.end()) continue;
    SimulatedSession* const session = owner->second;
    if (event.finish != FinishReason::kNone) owners_.erase(owner);
    session->OnEvent(event);
  }
}

void SimulatedReplica::Beat() {
  if (!alive_) return;
  const EngineStats engine = replica_.Stats(time_->now());
  v1::EngineStats stats;
  stats.set_step(engine.step);
  stats.set_running(static_cast<uint32_t>(engine.running));
  stats.set_waiting(static_cast<uint32_t>(engine.waiting));
  stats.set_queued_tokens(static_cast<uint64_t>(engine.queued_tokens));
  for (SimulatedSession* session : sessions_) session->OnHeartbeat(stats);
  time_->After(absl::Milliseconds(500), [this] { Beat(); });
}

}  // namespace qwenserve
