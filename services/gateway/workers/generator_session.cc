#include "services/gateway/workers/generator_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/proto_time.h"
#include "services/common/session_protocol.h"

namespace qwenserve {
namespace {

// Between two tokens of a sequence that is at work.
constexpr absl::Duration kLongestGap = absl::Seconds(1);

SequenceOutcome OutcomeOf(const v1::SequenceFinish& finish) {
  switch (finish.reason()) {
    case v1::SEQUENCE_FINISH_REASON_EOS:
    case v1::SEQUENCE_FINISH_REASON_STOP_TOKEN:
    case v1::SEQUENCE_FINISH_REASON_LENGTH:
      return SequenceOutcome::kSuccess;
    case v1::SEQUENCE_FINISH_REASON_ERROR:
      break;
    default:
      return SequenceOutcome::kNeutral;
  }
  switch (static_cast<absl::StatusCode>(finish.status().code())) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return SequenceOutcome::kFailure;
    default:
      return SequenceOutcome::kNeutral;
  }
}

}  // namespace

GeneratorSession::GeneratorSession(const SessionSettings& settings, SessionHooks hooks, Clock clock)
    : settings_(settings), hooks_(std::move(hooks)), clock_(std::move(clock)) {}

void GeneratorSession::Open(v1::Generator::Stub* stub, const std::string& client_id,
                            const std::string& version) {
  self_ = shared_from_this();
  stub->async()->Session(&context_, this);
  // Writes come from any thread; until the read has failed the stream must not be torn down.
  AddHold();
  {
    absl::MutexLock lock(&mutex_);
    opened_ = last_received_ = last_heartbeat_ = last_tick_ = clock_();
    writing_ = true;
    v1::ClientHello* hello = outgoing_.mutable_hello();
    hello->set_protocol_version(kSessionProtocol);
    hello->set_instance_id(client_id);
    hello->set_version(version);
    StartWrite(&outgoing_);
  }
  StartRead(&incoming_);
  StartCall();
}

void GeneratorSession::Tick(absl::Time now) {
  std::string lost;
  bool hand_over = false;
  {
    absl::MutexLock lock(&mutex_);
    // When this process was stopped itself, what has arrived meanwhile must be read first.
    if (now - last_tick_ > settings_.silence_limit) paused_at_ = now;
    if (now - std::exchange(last_tick_, now) > settings_.silence_limit / 2) {
      last_received_ = std::max(last_received_, now - settings_.silence_limit / 2);
    }
    if (state_ == State::kDraining && now >= hand_over_at_) {
      hand_over = true;
      hand_over_at_ = now + settings_.heartbeat_interval;  // for those that have to stay now
    }
    switch (state_) {
      case State::kConnecting:
        if (now - opened_ > settings_.handshake_timeout) lost = "no hello in time";
        break;
      case State::kReady:
      case State::kDraining:
        if (now - last_received_ > settings_.silence_limit) {
          lost = absl::StrCat("silent for ", absl::FormatDuration(now - last_received_));
        } else if (now - last_heartbeat_ >= settings_.heartbeat_interval) {
          last_heartbeat_ = now;
          heartbeat_due_ = true;
          WriteNext();
        }
        break;
      case State::kLost:
        break;
    }
  }
  if (hand_over) OfferHandOver(LossCause::kDraining);
  if (!lost.empty()) Close(lost, LossCause::kSilent);
}

void GeneratorSession::OfferHandOver(LossCause cause) {
  std::vector<Sequence> sequences;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [number, sequence] : sequences_) {
      if (sequence.listener != nullptr) sequences.push_back(sequence);
    }
  }
  for (const Sequence& sequence : sequences) {
    sequence.listener->OnHandOver(sequence.sample, sequence.attempt, cause);
  }
}

void GeneratorSession::Close(const std::string& reason, LossCause cause) {
  std::unordered_map<uint64_t, Sequence> orphans;
  {
    absl::MutexLock lock(&mutex_);
    if (state_ == State::kLost) return;
    // It had said that it would go.
    if (state_ == State::kDraining && cause == LossCause::kEnded) cause = LossCause::kDraining;
    // All sessions of a gateway that was stopped end when it goes on: no request is to blame.
    const bool vanished = cause == LossCause::kEnded || cause == LossCause::kSilent;
    if (vanished && WasPaused(clock_())) cause = LossCause::kPaused;
    state_ = State::kLost;
    reason_ = reason;
    loss_cause_ = cause;
    orphans = std::exchange(sequences_, {});
    submits_.clear();
    cancels_.clear();
    credits_.clear();
  }
  context_.TryCancel();
  for (auto& [number, sequence] : orphans) {
    if (sequence.listener != nullptr) {
      sequence.listener->OnGeneratorLost(sequence.sample, sequence.attempt, cause);
    }
  }
  hooks_.on_change();
}

bool GeneratorSession::WasPaused(absl::Time now) const {
  return now - last_tick_ > settings_.silence_limit || now - paused_at_ < settings_.silence_limit;
}

GeneratorSession::State GeneratorSession::state() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

std::string GeneratorSession::reason() const {
  absl::MutexLock lock(&mutex_);
  return reason_;
}

LossCause GeneratorSession::loss_cause() const {
  absl::MutexLock lock(&mutex_);
  return loss_cause_;
}

v1::EngineStats GeneratorSession::stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

absl::Duration GeneratorSession::silence() const {
  absl::MutexLock lock(&mutex_);
  return clock_() - last_received_;
}

uint32_t GeneratorSession::open_sequences() const {
  absl::MutexLock lock(&mutex_);
  return load_.places();
}

ReplicaView GeneratorSession::View(const PlaceCost& cost) const {
  absl::MutexLock lock(&mutex_);
  ReplicaView view = load_.View(cost, hello_);
  view.share = hooks_.health->Share(clock_());
  return view;
}

bool GeneratorSession::Reserve(const PlaceCost& cost) {
  absl::MutexLock lock(&mutex_);
  if (state_ != State::kReady) return false;
  load_.Reserve(cost);
  hooks_.health->OnPlaced(clock_());
  return true;
}

void GeneratorSession::Release(const PlaceCost& cost) {
  {
    absl::MutexLock lock(&mutex_);
    for (uint32_t i = 0; i < cost.sequences; ++i) load_.Remove(ReplicaLoad::OneOf(cost));
    hooks_.health->OnEnded(SequenceOutcome::kNeutral, clock_());
  }
  hooks_.on_capacity();
}

std::optional<uint64_t> GeneratorSession::Submit(v1::Submit submit, const PlaceCost& reserved,
                                                 std::shared_ptr<SequenceListener> listener) {
  absl::MutexLock lock(&mutex_);
  if (state_ == State::kLost) return std::nullopt;
  const uint64_t number = next_sequence_++;
  sequences_[number] = {std::move(listener),
                        submit.sample_index(),
                        submit.attempt(),
                        ReplicaLoad::OneOf(reserved),
                        clock_(),
                        reserved.prompt_tokens};
  submit.set_sequence(number);
  *submits_.emplace_back().mutable_submit() = std::move(submit);
  WriteNext();
  return number;
}

void GeneratorSession::Cancel(uint64_t number) {
  std::shared_ptr<SequenceListener> last;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  auto found = sequences_.find(number);
  if (found == sequences_.end() || found->second.listener == nullptr) return;
  // Its place is free when the generator says so.
  last = std::move(found->second.listener);
  found->second.listener = nullptr;
  credits_.erase(number);
  cancels_.push_back(number);
  WriteNext();
}

void GeneratorSession::AddCredit(uint64_t number, uint32_t tokens) {
  absl::MutexLock lock(&mutex_);
  if (sequences_.find(number) == sequences_.end()) return;
  credits_[number] += tokens;
  WriteNext();
}

void GeneratorSession::WriteNext() {
  if (writing_ || state_ == State::kLost || !FillWrite()) return;
  writing_ = true;
  StartWrite(&outgoing_);
}

// Submits go first: a Cancel that overtook its Submit would be ignored, and the sequence run on.
bool GeneratorSession::FillWrite() {
  outgoing_.Clear();
  if (!submits_.empty()) {
    outgoing_ = std::move(submits_.front());
    submits_.pop_front();
    return true;
  }
  if (!cancels_.empty()) {
    outgoing_.mutable_cancel()->mutable_sequences()->Add(cancels_.begin(), cancels_.end());
    cancels_.clear();
    return true;
  }
  if (!credits_.empty()) {
    for (const auto& [number, tokens] : credits_) {
      v1::SequenceCredit* credit = outgoing_.mutable_credit()->add_credits();
      credit->set_sequence(number);
      credit->set_tokens(tokens);
    }
    credits_.clear();
    return true;
  }
  if (!std::exchange(heartbeat_due_, false)) return false;
  outgoing_.mutable_heartbeat();
  return true;
}

void GeneratorSession::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  // A failed write means a dead stream, which the read will report.
  if (ok) WriteNext();
}

void GeneratorSession::OnReadDone(bool ok) {
  if (!ok) {
    Close("the stream ended", LossCause::kEnded);
    RemoveHold();
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    last_received_ = clock_();
  }
  switch (incoming_.message_case()) {
    case v1::SessionResponse::kHello:
      HandleHello(std::move(*incoming_.mutable_hello()));
      break;
    case v1::SessionResponse::kStepEvents:
      HandleStep(incoming_.mutable_step_events());
      break;
    case v1::SessionResponse::kHeartbeat:
      HandleHeartbeat(incoming_.heartbeat().stats());
      break;
    case v1::SessionResponse::kDraining: {
      absl::MutexLock lock(&mutex_);
      if (state_ == State::kReady) state_ = State::kDraining;
      hand_over_at_ = clock_() + FromProtoDuration(incoming_.draining().time_left()) -
                      settings_.hand_over_before;
      break;
    }
    case v1::SessionResponse::MESSAGE_NOT_SET:
      break;  // of a newer version
  }
  if (incoming_.has_draining()) hooks_.on_change();
  StartRead(&incoming_);
}

void GeneratorSession::HandleHello(v1::ServerHello hello) {
  if (state() != State::kConnecting) return;
  if (hello.protocol_version() < kOldestSessionProtocol ||
      hello.protocol_version() > kSessionProtocol) {
    Close(absl::StrCat("it speaks version ", hello.protocol_version(), " of the protocol, not ",
                       kOldestSessionProtocol, " to ", kSessionProtocol),
          LossCause::kEnded);
    return;
  }
  if (absl::Status status = hooks_.check_hello(hello); !status.ok()) {
    Close(std::string(status.message()), LossCause::kEnded);
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    if (state_ != State::kConnecting) return;
    hello_ = std::move(hello);
    state_ = State::kReady;
  }
  hooks_.on_change();
}

void GeneratorSession::HandleHeartbeat(const v1::EngineStats& stats) {
  bool recovered;
  bool stalled;
  {
    absl::MutexLock lock(&mutex_);
    stats_ = stats;
    const bool was_stalled = load_.stalled();
    load_.OnHeartbeat(stats, static_cast<uint32_t>(sequences_.size()));
    hooks_.health->OnHeartbeat(stats, clock_());
    stalled = load_.stalled();
    recovered = was_stalled && !stalled;
  }
  if (stalled) OfferHandOver(LossCause::kStalled);
  if (recovered) hooks_.on_capacity();
}

void GeneratorSession::HandleStep(v1::StepEvents* step) {
  std::vector<Delivery> deliveries;
  bool capacity = false;
  const absl::Time now = clock_();
  ReplicaWork work;
  {
    absl::MutexLock lock(&mutex_);
    deliveries.reserve(step->events_size());
    for (v1::SequenceEvent& event : *step->mutable_events()) {
      auto found = sequences_.find(event.sequence());
      if (found == sequences_.end() || found->second.attempt != event.attempt()) continue;
      const bool ended = Account(event, now, &found->second, &work);
      if (found->second.listener != nullptr) {
        deliveries.push_back({found->second.listener, found->second.sample, &event});
      }
      if (ended) {
        load_.Remove(found->second.counted);
        credits_.erase(found->first);
        sequences_.erase(found);
        capacity = true;
      }
    }
  }
  for (Delivery& delivery : deliveries) {
    delivery.listener->OnSequenceEvent(delivery.sample, std::move(*delivery.event));
  }
  hooks_.on_step_end();
  hooks_.on_work(hello_, work);
  if (capacity) hooks_.on_capacity();
}

bool GeneratorSession::Account(const v1::SequenceEvent& event, absl::Time now, Sequence* sequence,
                               ReplicaWork* work) {
  const uint32_t tokens = static_cast<uint32_t>(event.token_ids_size());
  load_.OnTokens(tokens, &sequence->counted);
  if (tokens > 0) {
    const absl::Duration gap = now - std::exchange(sequence->last_heard, now);
    if (sequence->answer_tokens == 0) {
      hooks_.health->OnFirstToken(now);
      ++work->started_sequences;
      work->prompt_tokens += sequence->prompt_tokens;
      work->start_delays += gap;
    } else {
      // A pause for want of credit is no work.
      work->gaps += std::min(gap, kLongestGap * tokens);
      work->gap_tokens += tokens;
    }
    work->answer_tokens += tokens;
    sequence->answer_tokens += tokens;
  }
  if (event.has_finish()) {
    hooks_.health->OnEnded(OutcomeOf(event.finish()), now);
    if (sequence->answer_tokens > 0) work->answers.push_back(sequence->answer_tokens);
  }
  return event.has_finish();
}

void GeneratorSession::OnDone(const grpc::Status& status) {
  if (!status.ok()) {
    absl::MutexLock lock(&mutex_);
    // What the peer says is worth more than that the stream ended.
    if (reason_ == "the stream ended") reason_ = status.error_message();
  }
  // The one who waits for this must be the last owner: a channel that goes away on one of gRPC's
  // own threads may have it wait for itself.
  const std::shared_ptr<absl::Notification> done = done_;
  std::exchange(self_, nullptr).reset();
  done->Notify();
}

}  // namespace qwenserve
