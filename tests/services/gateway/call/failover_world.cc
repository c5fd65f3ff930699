#include "tests/services/gateway/call/failover_world.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "tests/services/gateway/call/one_model_catalog.h"
#include "tests/services/gateway/fake_tokenizer.h"

namespace qwenserve {
namespace {

// Letters, and the bytes of longer characters.
const std::string kBytes = "aabbccd \xC3\xA9\xE2\x82\xAC";

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

uint64_t HashOf(const v1::Submit& submit, const std::vector<uint32_t>& ids) {
  uint64_t hash = Mix(submit.sampling().seed(), submit.sample_index());
  for (uint32_t id : submit.prompt_ids()) hash = Mix(hash, id);
  hash = Mix(hash, 1000);  // the boundary
  for (uint32_t id : ids) hash = Mix(hash, id);
  return Mix(hash, ids.size());
}

v1::TokenLogprobs Logprobs(uint64_t hash, uint32_t alternatives) {
  v1::TokenLogprobs logprobs;
  logprobs.set_logprob(-static_cast<float>(hash % 4096) / 512);
  for (uint32_t i = 0; i < alternatives; ++i) {
    logprobs.add_top_ids(static_cast<uint8_t>(kBytes[(hash + i) % kBytes.size()]));
    logprobs.add_top_logprobs(logprobs.logprob() - static_cast<float>(i));
  }
  return logprobs;
}

class Sink final : public CallSink {
  void Wake() override {}
  void Drop() override { ADD_FAILURE() << "dropped"; }
};

}  // namespace

WorldReplica::WorldReplica(World* world, std::string instance_id) : world_(world) {
  hello_.set_instance_id(std::move(instance_id));
  hello_.set_model("m");
  hello_.set_tokenizer_hash("h");
  hello_.set_numerics_fingerprint("bits");
}

std::optional<uint64_t> WorldReplica::Submit(v1::Submit submit, const PlaceCost& reserved,
                                             std::shared_ptr<SequenceListener> listener) {
  if (!up_) return std::nullopt;
  EXPECT_LT(submit.resumed_ids_size(), static_cast<int>(submit.max_tokens()));
  EXPECT_EQ(reserved.sequences, 1u);
  const uint64_t number = next_++;
  Sequence& sequence = sequences_[number];
  sequence.ids.assign(submit.resumed_ids().begin(), submit.resumed_ids().end());
  sequence.credit = submit.initial_credit();
  sequence.listener = std::move(listener);
  sequence.submit = std::move(submit);
  if (world_->Chance(world_->faults().refusal)) {
    Mail mail{number, {}};
    mail.event.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_ERROR);
    *mail.event.mutable_finish()->mutable_status() =
        ToProtoStatus(WithReason(absl::ResourceExhaustedError("full"), kReasonQueueFull));
    mail_.push_back(std::move(mail));
    sequence.credit = 0;
    sequence.submit.clear_prompt_logprobs();
  }
  return number;
}

void WorldReplica::Cancel(uint64_t number) {
  auto found = sequences_.find(number);
  if (found != sequences_.end()) found->second.listener = nullptr;
}

void WorldReplica::AddCredit(uint64_t number, uint32_t tokens) {
  auto found = sequences_.find(number);
  if (found != sequences_.end()) found->second.credit += tokens;
}

void WorldReplica::Release(const PlaceCost& cost) {
  places_ -= static_cast<int>(cost.sequences);
  world_->OnCapacity();
}

ReplicaView WorldReplica::View(const PlaceCost& cost) const {
  ReplicaView view;
  view.instance_id = hello_.instance_id();
  view.outstanding_tokens = static_cast<uint64_t>(places_);
  view.has_room = places_ == 0;  // so that samples wait for each other
  return view;
}

bool WorldReplica::Reserve(const PlaceCost& cost) {
  if (!takes_new()) return false;
  places_ += static_cast<int>(cost.sequences);
  return true;
}

void WorldReplica::Produce(uint64_t number, Sequence* s) {
  Mail mail{number, {}};
  v1::SequenceEvent& event = mail.event;
  event.set_first_token_index(static_cast<uint32_t>(s->ids.size()));
  if (s->submit.has_prompt_logprobs() && s->scored < s->submit.prompt_ids_size()) {
    event.set_first_prompt_index(static_cast<uint32_t>(s->scored));
    const int end = std::min(s->scored + 3, s->submit.prompt_ids_size());
    for (; s->scored < end; ++s->scored) {
      v1::TokenLogprobs* token = event.add_prompt_logprobs();
      *token = Logprobs(Mix(s->scored, s->submit.prompt_ids(s->scored)), 1);
      token->set_token_id(s->submit.prompt_ids(s->scored));
    }
  } else if (s->ids.size() == s->submit.max_tokens()) {
    event.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_LENGTH);
  } else {
    if (s->credit == 0) return;
    const uint64_t hash = HashOf(s->submit, s->ids);
    if (hash % 61 == 0) {
      event.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_EOS);
    } else {
      --s->credit;
      s->ids.push_back(static_cast<uint8_t>(kBytes[hash % kBytes.size()]));
      event.add_token_ids(s->ids.back());
      if (s->submit.has_top_logprobs()) {
        *event.add_logprobs() = Logprobs(hash, s->submit.top_logprobs());
      }
      if (s->ids.size() == s->submit.max_tokens() && world_->Chance(0.5)) {
        event.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_LENGTH);
      }
    }
    if (event.has_finish()) s->credit = 0;
  }
  mail_.push_back(std::move(mail));
}

void WorldReplica::Step() {
  for (auto& [number, sequence] : sequences_) {
    const bool ending = !mail_.empty() && std::any_of(mail_.begin(), mail_.end(), [&](auto& mail) {
      return mail.sequence == number && mail.event.has_finish();
    });
    if (ending || !world_->Chance(0.7)) continue;
    if (sequence.listener == nullptr) {
      Mail end{number, {}};
      end.event.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_CANCELLED);
      mail_.push_back(std::move(end));
    } else {
      Produce(number, &sequence);
    }
  }
}

void WorldReplica::Hand(const Sequence& sequence, const v1::SequenceEvent& event) {
  if (sequence.listener == nullptr) return;
  v1::SequenceEvent stamped = event;
  stamped.set_attempt(sequence.submit.attempt());
  sequence.listener->OnSequenceEvent(sequence.submit.sample_index(), std::move(stamped));
}

bool WorldReplica::DeliverOne() {
  if (!up_ || mail_.empty()) return false;
  const Mail mail = std::move(mail_.front());
  mail_.pop_front();
  const Sequence sequence = sequences_[mail.sequence];  // which the call may change
  if (mail.event.has_finish()) {
    sequences_.erase(mail.sequence);
    --places_;
    world_->OnCapacity();
  }
  world_->OnEvent();
  Hand(sequence, mail.event);
  return true;
}

void WorldReplica::Lose(LossCause cause) {
  up_ = false;
  places_ = 0;
  const auto lost = std::exchange(sequences_, {});
  const auto mail = std::exchange(mail_, {});
  const bool late = world_->Chance(0.5);
  for (const auto& [number, sequence] : lost) {
    if (sequence.listener == nullptr) continue;
    sequence.listener->OnGeneratorLost(sequence.submit.sample_index(), sequence.submit.attempt(),
                                       cause);
  }
  for (const Mail& event : mail) {
    auto found = lost.find(event.sequence);
    if (late && found != lost.end()) Hand(found->second, event.event);
  }
  world_->OnCapacity();
}

void WorldReplica::OfferHandOver(LossCause cause) {
  const auto sequences = sequences_;
  for (const auto& [number, sequence] : sequences) {
    if (sequence.listener == nullptr) continue;
    sequence.listener->OnHandOver(sequence.submit.sample_index(), sequence.submit.attempt(), cause);
  }
}

World::World(uint64_t seed, const Faults& faults, GatewayMetrics* metrics)
    : random_(seed),
      faults_(faults),
      admission_(Admission::Limits()),
      key_limits_([this] { return now_; }, metrics),
      retries_({.ratio = 0, .per_second = 1000, .most_saved = 1e9}) {
  queue_ = std::make_unique<PlacementQueue>(
      [this](const PlacementRequest& request) {
        std::vector<std::shared_ptr<PlacementTarget>> targets;
        for (const auto& replica : replicas_) {
          if (replica->takes_new() && Allows(request, replica->hello())) targets.push_back(replica);
        }
        return targets;
      },
      PlacementQueue::Settings(), [this] { return now_; }, seed, metrics);
  services_.admission = &admission_;
  services_.key_limits = &key_limits_;
  services_.text = this;
  services_.placer = queue_.get();
  services_.catalog = [catalog = OneModelCatalog(1000)] { return catalog; };
  services_.metrics = metrics;
  services_.retries = &retries_;
  services_.clock = [this] { return now_; };
  services_.settings.credit_window = 1 + Pick(20);
  for (int i = 0; i < 3; ++i) AddReplica();
}

void World::AddReplica() {
  replicas_.push_back(std::make_shared<WorldReplica>(this, absl::StrCat("r", ++instances_)));
}

std::function<void()> World::Prepare(v1::PrepareRequest, const std::string&, absl::Time,
                                     PrepareCallback done) {
  prepared_ = std::move(done);
  return [this] { prepared_ = nullptr; };
}

void World::Detokenize(v1::DetokenizeItem item, const std::string&,
                       std::shared_ptr<TextListener> listener) {
  items_.emplace_back(std::move(item), std::move(listener));
}

void World::Harm() {
  const auto victim = replicas_[Pick(static_cast<int>(replicas_.size()))];
  const bool at = faults_.lose_at >= 0 && events_ >= faults_.lose_at && losses_ == 0;
  if (at) {
    for (const auto& replica : replicas_) {
      if (losses_ > 0 || !replica->has_work() || !replica->up()) continue;
      ++losses_;
      replica->Lose(LossCause::kEnded);
    }
  }
  if (losses_ < faults_.most_losses && Chance(faults_.loss)) {
    ++losses_;
    victim->Lose(Chance(0.5) ? LossCause::kEnded : LossCause::kSilent);
  } else if (Chance(faults_.drain)) {
    victim->Drain();
    victim->OfferHandOver(LossCause::kDraining);
    if (Chance(0.3)) victim->Lose(LossCause::kDraining);
  } else if (Chance(faults_.stall)) {
    victim->OfferHandOver(LossCause::kStalled);
  }
  replicas_.erase(std::remove_if(replicas_.begin(), replicas_.end(),
                                 [](const auto& replica) {
                                   return !replica->up() ||
                                          (!replica->takes_new() && replica->places() == 0);
                                 }),
                  replicas_.end());
  // A successor takes its time, but less than a call would wait.
  if (replicas_.size() < 2 || (replicas_.size() < 3 && Chance(0.05))) AddReplica();
}

void World::Read(WorldResult* result) {
  GenerateCall::Output output = call_->Next();
  if (std::holds_alternative<std::monostate>(output)) return;
  if (auto* delta = std::get_if<AnswerDelta>(&output)) {
    WorldAnswer& answer = result->answers[delta->choice];
    EXPECT_EQ(delta->first_token_index, answer.ids.size());
    answer.ids.insert(answer.ids.end(), delta->token_ids.begin(), delta->token_ids.end());
    answer.text += delta->text;
    for (const auto& token : delta->logprobs) answer.logprobs += token.SerializeAsString();
    for (const auto& token : delta->prompt_logprobs) {
      result->prompt_logprobs += token.SerializeAsString();
    }
  } else if (auto* finished = std::get_if<v1::Finished>(&output)) {
    for (const v1::ChoiceFinish& finish : finished->choices()) {
      result->answers[finish.index()].finish = finish.finish_reason();
      result->answers[finish.index()].stop = finish.stop_string();
    }
    ended_ = true;
  } else if (auto* status = std::get_if<absl::Status>(&output)) {
    result->status = *status;
    ended_ = true;
  }
  call_->Taken();
}

void World::Turn() {
  now_ += absl::Milliseconds(10);
  Harm();
  const auto replicas = replicas_;
  for (const auto& replica : replicas) {
    if (Chance(0.6)) replica->Step();
    if (Chance(0.6)) replica->DeliverOne();
  }
  while (!items_.empty() && Chance(0.6)) {
    auto [item, listener] = std::move(items_.front());
    items_.pop_front();
    listener->OnText(FakeDecode(item));
  }
  if (Chance(0.3)) call_->Tick(now_);
  if (std::exchange(pump_, false)) queue_->Pump();
}

WorldResult World::Run(const GenerateRequest& request) {
  WorldResult result;
  result.answers.resize(request.n());
  call_ = std::make_shared<GenerateCall>(GatewayMetrics::kComplete, absl::InfiniteFuture(),
                                         services_, std::make_shared<Sink>());
  call_->Start({Caller(), request, 1});
  v1::PrepareResponse prompt;
  for (char c : std::string("a prompt")) prompt.add_prompt_ids(static_cast<uint8_t>(c));
  prompt.set_tokenizer_hash("h");
  std::exchange(prepared_, nullptr)(prompt);
  for (int turn = 0; turn < 20000 && !ended_; ++turn) {
    Turn();
    if (Chance(0.5)) Read(&result);
  }
  EXPECT_TRUE(ended_) << "the call hangs";
  EXPECT_EQ(queue_->waiting(), 0u) << "the call is over, but waits";
  result.failovers = call_->failovers();
  result.events = events_;
  for (int turn = 0; turn < 2000; ++turn) {
    for (const auto& replica : replicas_) {
      replica->Step();
      while (replica->DeliverOne()) {
      }
    }
    queue_->Pump();
  }
  for (const auto& replica : replicas_) EXPECT_EQ(replica->places(), 0) << "a place is lost";
  items_.clear();
  std::weak_ptr<GenerateCall> gone = call_;
  call_ = nullptr;
  EXPECT_TRUE(gone.expired()) << "somebody keeps the call";
  EXPECT_EQ(admission_.in_flight(), 0);
  return result;
}

}  // namespace qwenserve
