#include "services/generator/generator_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"
#include "services/common/proto_time.h"
#include "services/common/session_protocol.h"
#include "services/generator/submit_conversion.h"

namespace qwenserve {
namespace {

// A step is stalled when it takes four times as long as such a step should by what was measured,
// but never before 4 s: with the heartbeat of 500 ms a stall shows within 5 s, where steps of its
// kind take up to 1 s.
constexpr absl::Duration kLeastStepBudget = absl::Seconds(4);
constexpr int kBudgetFactor = 4;

absl::Duration BudgetOf(const EngineStats& stats) {
  return std::max(kLeastStepBudget, kBudgetFactor * stats.expected_step);
}

// An engine's refusal as clients see it.
absl::Status RefusalOf(absl::Status status) {
  const bool too_late = status.ErasePayload(kDeadlineUnreachablePayload);
  return WithReason(std::move(status), too_late ? kReasonDeadlineUnreachable : kReasonQueueFull);
}

}  // namespace

GeneratorCore::GeneratorCore(Engine* engine, v1::ServerHello hello, GeneratorMetrics* metrics,
                             const Tracer* tracer)
    : engine_(engine),
      hello_(std::move(hello)),
      metrics_(metrics),
      tracer_(tracer),
      timing_(metrics) {}

absl::StatusOr<uint64_t> GeneratorCore::OpenSession(std::shared_ptr<SessionOutbox> outbox,
                                                    absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (sessions_.size() >= kMaxSessions) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                          "there are ", kMaxSessions, " sessions, more are not possible")),
                      kReasonQueueFull);
  }
  const uint64_t id = next_session_++;
  Session& session = sessions_[id];
  session.outbox = std::move(outbox);
  session.last_heard = now;
  return id;
}

absl::Status GeneratorCore::OnMessage(uint64_t id, const v1::SessionRequest& message,
                                      absl::Time now) {
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return absl::CancelledError("the session is closed");
  Session& session = it->second;
  session.last_heard = now;
  if (message.message_case() == v1::SessionRequest::kHello) {
    return Greet(&session, message.hello(), now);
  }
  if (!session.greeted) return absl::FailedPreconditionError("the first message must be a hello");
  switch (message.message_case()) {
    case v1::SessionRequest::kSubmit:
      return OnSubmit(id, &session, message.submit(), now);
    case v1::SessionRequest::kCancel:
      for (uint64_t sequence : message.cancel().sequences()) {
        const auto handle = session.handles.find(sequence);
        if (handle != session.handles.end()) engine_->Cancel(handle->second);
      }
      return absl::OkStatus();
    case v1::SessionRequest::kCredit:
      for (const v1::SequenceCredit& credit : message.credit().credits()) {
        const auto handle = session.handles.find(credit.sequence());
        if (handle != session.handles.end()) engine_->AddCredit(handle->second, credit.tokens());
      }
      return absl::OkStatus();
    default:  // a heartbeat, or a message of a later version: heard is enough
      return absl::OkStatus();
  }
}

absl::Status GeneratorCore::Greet(Session* session, const v1::ClientHello& hello, absl::Time now) {
  if (session->greeted) return absl::FailedPreconditionError("a second hello");
  if (hello.protocol_version() < kOldestSessionProtocol) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "protocol version ", hello.protocol_version(), ", this generator speaks ",
                          kOldestSessionProtocol, " and newer")),
                      kReasonProtocolVersion);
  }
  session->greeted = true;
  v1::ServerHello answer = hello_;
  answer.set_protocol_version(std::min(hello.protocol_version(), kSessionProtocol));
  session->outbox->AddHello(std::move(answer));
  if (drain_until_.has_value()) SendDraining(session->outbox.get(), now);
  return absl::OkStatus();
}

absl::Status GeneratorCore::OnSubmit(uint64_t id, Session* session, const v1::Submit& submit,
                                     absl::Time now) {
  if (session->handles.contains(submit.sequence())) {
    return absl::InvalidArgumentError(
        absl::StrCat("sequence ", submit.sequence(), " is open already"));
  }
  const absl::Status taken = TrySubmit(id, session, submit, now);
  if (!taken.ok()) {
    SequenceTrace::Refused(tracer_, submit, now, taken);
    metrics_->rejected.Increment();
    std::vector<v1::SequenceEvent> refusal;
    refusal.push_back(RefusalEvent(submit, taken));
    session->outbox->AddEvents(engine_->Stats().step, std::move(refusal));
  }
  return absl::OkStatus();
}

absl::Status GeneratorCore::TrySubmit(uint64_t id, Session* session, const v1::Submit& submit,
                                      absl::Time now) {
  if (ending_) {
    return WithReason(absl::UnavailableError("the generator is shutting down"), kReasonDraining);
  }
  const size_t limit = hello_.limits().max_session_sequences();
  if (session->handles.size() >= limit) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat("the session has ", session->handles.size(),
                                                  " sequences open, at most ", limit)),
        kReasonQueueFull);
  }
  QS_ASSIGN_OR_RETURN(SequenceRequest request, ToSequenceRequest(submit, engine_->info(), now));
  Route route;
  route.session = id;
  route.sequence = submit.sequence();
  route.attempt = submit.attempt();
  route.prompt_tokens = submit.prompt_ids_size();
  route.times.submitted = now;
  const absl::StatusOr<uint64_t> handle = engine_->Submit(std::move(request));
  if (absl::IsResourceExhausted(handle.status())) {
    return WithRetryAfter(RefusalOf(handle.status()), absl::Seconds(1));
  }
  QS_RETURN_IF_ERROR(handle.status());
  session->handles[submit.sequence()] = *handle;
  route.trace.Begin(tracer_, submit, now);
  routes_[*handle] = std::move(route);
  return absl::OkStatus();
}

void GeneratorCore::CloseSession(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  for (const auto& [sequence, handle] : it->second.handles) engine_->Cancel(handle);
  sessions_.erase(it);
}

void GeneratorCore::OnStep(const StepEvents& events, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  absl::flat_hash_map<uint64_t, std::vector<v1::SequenceEvent>> by_session;
  for (const SequenceEvent& event : events.sequences) {
    const auto it = routes_.find(event.sequence);
    if (it == routes_.end()) continue;
    Route& route = it->second;
    timing_.OnEvent(event, route.prompt_tokens, now, &route.times);
    route.trace.OnEvent(event, now);
    const bool finished = event.finish != FinishReason::kNone;
    const auto session = sessions_.find(route.session);
    if (session != sessions_.end()) {
      by_session[route.session].push_back(ToWireEvent(event, route.sequence, route.attempt,
                                                      route.prompt_tokens,
                                                      engine_->info().defaults.eos_ids));
      if (finished) session->second.handles.erase(route.sequence);
    }
    if (finished) routes_.erase(it);
  }
  timing_.OnStepEnd(events);
  for (auto& [id, wire] : by_session) {
    sessions_[id].outbox->AddEvents(events.step, std::move(wire));
  }
}

void GeneratorCore::EndSessions(const absl::Status& error) {
  absl::MutexLock lock(&mutex_);
  ending_ = true;
  for (auto& [id, session] : sessions_) session.outbox->Close(error);
}

void GeneratorCore::Beat(absl::Time now) {
  const EngineStats stats = engine_->Stats();
  v1::Heartbeat heartbeat;
  FillStats(stats, BudgetOf(stats), heartbeat.mutable_stats());
  absl::MutexLock lock(&mutex_);
  if (!first_beat_.has_value()) first_beat_ = now;
  ToProtoDuration(now - *first_beat_, heartbeat.mutable_stats()->mutable_read_at());
  for (auto& [id, session] : sessions_) {
    if (now - session.last_heard > kSilenceLimit) {
      session.outbox->Fail(WithReason(
          absl::UnavailableError(absl::StrCat("nothing heard from the gateway for ",
                                              absl::FormatDuration(now - session.last_heard))),
          "GATEWAY_SILENT"));
    } else if (session.greeted) {
      session.outbox->SetHeartbeat(heartbeat);
    }
  }
}

void GeneratorCore::Drain(absl::Duration time_left, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  drain_until_ = now + time_left;
  for (auto& [id, session] : sessions_) {
    if (session.greeted) SendDraining(session.outbox.get(), now);
  }
}

void GeneratorCore::SendDraining(SessionOutbox* outbox, absl::Time now) {
  v1::Draining draining;
  ToProtoDuration(std::max(*drain_until_ - now, absl::ZeroDuration()),
                  draining.mutable_time_left());
  outbox->AddDraining(std::move(draining));
}

size_t GeneratorCore::open_sequences() const {
  absl::MutexLock lock(&mutex_);
  return routes_.size();
}

size_t GeneratorCore::open_sessions() const {
  absl::MutexLock lock(&mutex_);
  return sessions_.size();
}

absl::Duration GeneratorCore::step_budget() const { return BudgetOf(engine_->Stats()); }

absl::Status GeneratorCore::Health() const {
  const absl::Status engine = engine_->Health();
  if (!engine.ok()) return engine;
  const EngineStats stats = engine_->Stats();
  if (stats.step_age > BudgetOf(stats)) {
    return absl::UnavailableError(absl::StrCat("step ", stats.step, " has not ended for ",
                                               absl::FormatDuration(stats.step_age)));
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
