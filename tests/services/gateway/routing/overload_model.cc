#include "tests/services/gateway/routing/overload_model.h"

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "services/gateway/admission/admission.h"
#include "services/gateway/routing/replica_load.h"

namespace qwenserve {
namespace {

// What happens next, in the order of time and then of planning.
class Agenda {
 public:
  absl::Time now() const { return now_; }
  void At(absl::Time time, std::function<void()> action) {
    actions_.emplace(std::max(time, now_), std::move(action));
  }
  void RunUntil(absl::Time end) {
    while (!actions_.empty() && actions_.begin()->first <= end) {
      now_ = actions_.begin()->first;
      std::function<void()> action = std::move(actions_.begin()->second);
      actions_.erase(actions_.begin());
      action();
    }
    now_ = end;
  }

 private:
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::multimap<absl::Time, std::function<void()>> actions_;
};

class Client;

// Continuous batching: each step does prompt tokens up to its budget, then a token for each
// sequence whose prompt is done.
class Replica final : public PlacementTarget {
 public:
  Replica(const OverloadOptions& options, std::string name, Agenda* agenda)
      : options_(options), agenda_(agenda) {
    hello_.set_instance_id(std::move(name));
    hello_.set_model("m");
    v1::GeneratorLimits* limits = hello_.mutable_limits();
    limits->set_max_running(options.max_running);
    limits->set_max_batch_tokens(options.max_batch_tokens);
    limits->set_max_session_sequences(options.max_running + 64);
  }

  const v1::ServerHello& hello() const override { return hello_; }
  std::optional<uint64_t> Submit(v1::Submit, const PlaceCost&,
                                 std::shared_ptr<SequenceListener>) override {
    return std::nullopt;
  }
  void Cancel(uint64_t) override {}
  void AddCredit(uint64_t, uint32_t) override {}
  void Release(const PlaceCost&) override {}
  ReplicaView View(const PlaceCost& cost) const override { return load_.View(cost, hello_); }
  bool Reserve(const PlaceCost& cost) override {
    load_.Reserve(cost);
    return true;
  }

  void Start(Client* client);
  uint32_t places() const { return load_.places(); }

  // Its queue, for OnWork and Pump.
  PlacementQueue* queue = nullptr;

 private:
  struct Sequence {
    Client* client;
    ReplicaLoad::Sequence counted;
    uint32_t prompt_left;
    uint32_t answer_tokens = 0;
    absl::Time last;
  };

  void Step();
  void FinishStep(std::vector<size_t> decoding);

  const OverloadOptions& options_;
  Agenda* const agenda_;
  v1::ServerHello hello_;
  ReplicaLoad load_;
  std::vector<Sequence> sequences_;  // in the order of arrival; the first max_running run
  bool stepping_ = false;
};

class Client final : public PlacementListener {
 public:
  PlaceCost cost;
  uint32_t answer = 0;  // that the model will give
  absl::Time arrived;
  absl::Time deadline;
  Agenda* agenda = nullptr;
  std::map<const GeneratorReplica*, Replica*>* replicas = nullptr;
  Admission::Ticket ticket;

  enum class End { kNone, kInTime, kRefused, kLate };
  End end = End::kNone;
  absl::Time ended;

  void Finish(End how) {
    if (end != End::kNone) return;
    end = how;
    ended = agenda->now();
    ticket = Admission::Ticket();
  }
  void OnPlaced(std::shared_ptr<GeneratorReplica> replica) override {
    replicas->at(replica.get())->Start(this);
  }
  void OnNotPlaced(absl::Status) override { Finish(End::kRefused); }
};

void Replica::Start(Client* client) {
  sequences_.push_back(
      {client, ReplicaLoad::OneOf(client->cost), client->cost.prompt_tokens, 0, agenda_->now()});
  if (!stepping_) Step();
}

void Replica::Step() {
  stepping_ = !sequences_.empty();
  if (!stepping_) return;
  absl::Duration duration = options_.step;
  uint32_t budget = options_.max_batch_tokens;
  std::vector<size_t> decoding;
  const size_t running = std::min<size_t>(sequences_.size(), options_.max_running);
  for (size_t i = 0; i < running; ++i) {
    Sequence& sequence = sequences_[i];
    const uint32_t tokens = std::min(budget, sequence.prompt_left);
    budget -= tokens;
    sequence.prompt_left -= tokens;
    duration += options_.per_prompt_token * tokens + options_.per_sequence;
    if (sequence.prompt_left == 0) decoding.push_back(i);
  }
  agenda_->At(agenda_->now() + duration, [this, decoding] { FinishStep(decoding); });
}

void Replica::FinishStep(std::vector<size_t> decoding) {
  ReplicaWork work;
  const absl::Time now = agenda_->now();
  for (size_t i : decoding) {
    Sequence& sequence = sequences_[i];
    const absl::Duration gap = now - std::exchange(sequence.last, now);
    if (sequence.answer_tokens++ == 0) {
      ++work.started_sequences;
      work.prompt_tokens += sequence.client->cost.prompt_tokens;
      work.start_delays += gap;
    } else {
      work.gaps += gap;
      ++work.gap_tokens;
    }
    ++work.answer_tokens;
    load_.OnTokens(1, &sequence.counted);
  }
  std::vector<Sequence> kept;
  for (Sequence& sequence : sequences_) {
    Client& client = *sequence.client;
    if (sequence.answer_tokens >= client.answer) {
      client.Finish(now <= client.deadline ? Client::End::kInTime : Client::End::kLate);
    } else if (now > client.deadline) {
      client.Finish(Client::End::kLate);
    } else {
      kept.push_back(std::move(sequence));
      continue;
    }
    load_.Remove(sequence.counted);
    if (sequence.answer_tokens > 0) work.answers.push_back(sequence.answer_tokens);
  }
  sequences_.swap(kept);
  // Before anyone is placed here, who would begin a step of its own.
  Step();
  queue->OnWork("m", "", work);
  queue->Pump();
}

}  // namespace

OverloadResult RunOverload(const OverloadOptions& options) {
  Agenda agenda;
  Metrics registry("gateway");
  GatewayMetrics metrics(registry);
  Admission admission({}, &metrics);
  std::vector<std::shared_ptr<PlacementTarget>> targets;
  std::vector<std::shared_ptr<Replica>> replicas;
  std::map<const GeneratorReplica*, Replica*> by_target;
  for (size_t i = 0; i < options.replicas; ++i) {
    replicas.push_back(std::make_shared<Replica>(options, std::to_string(i), &agenda));
    targets.push_back(replicas.back());
    by_target[replicas.back().get()] = replicas.back().get();
  }
  PlacementQueue queue([&](const PlacementRequest&) { return targets; }, options.queue,
                       [&] { return agenda.now(); }, options.seed, &metrics);
  for (const auto& replica : replicas) replica->queue = &queue;

  std::mt19937 random(options.seed);
  std::exponential_distribution<double> pause(options.requests_per_second);
  std::exponential_distribution<double> prompt(1 / options.mean_prompt);
  std::exponential_distribution<double> answer(1 / options.mean_answer);
  const absl::Time measured_from = agenda.now() + options.warm_up;
  const absl::Time end = measured_from + options.measured;
  OverloadResult result;
  std::vector<std::shared_ptr<Client>> clients;

  std::function<void()> tick = [&] {
    queue.Tick(agenda.now());
    result.most_waiting = std::max(result.most_waiting, queue.waiting());
    if (agenda.now() < end + options.long_deadline) {
      agenda.At(agenda.now() + absl::Milliseconds(50), tick);
    }
  };
  std::function<void()> arrive = [&] {
    if (agenda.now() >= end) return;
    agenda.At(agenda.now() + absl::Seconds(pause(random)), arrive);
    auto client = std::make_shared<Client>();
    client->agenda = &agenda;
    client->replicas = &by_target;
    client->arrived = agenda.now();
    client->deadline =
        agenda.now() + (random() % 2 == 0 ? options.short_deadline : options.long_deadline);
    client->answer = std::min(options.max_tokens, 1 + static_cast<uint32_t>(answer(random)));
    client->cost = {1, 1 + static_cast<uint32_t>(prompt(random)), options.max_tokens};
    clients.push_back(client);
    auto ticket = admission.Enter(4 * client->cost.prompt_tokens);
    if (!ticket.ok()) return client->Finish(Client::End::kRefused);
    client->ticket = *std::move(ticket);
    PlacementRequest request;
    request.model = "m";
    request.cost = client->cost;
    if (!options.hide_deadlines) request.deadline = client->deadline;
    Client* const raw = client.get();
    agenda.At(client->deadline + absl::Nanoseconds(1), [&queue, raw] {
      queue.Withdraw(raw);
      if (raw->end == Client::End::kNone) raw->Finish(Client::End::kLate);
    });
    queue.Place(std::move(request), client);
  };
  agenda.At(agenda.now(), tick);
  agenda.At(agenda.now(), arrive);
  agenda.RunUntil(end + 2 * options.long_deadline);

  std::vector<absl::Duration> refusals;
  uint64_t good_tokens = 0;
  for (const auto& client : clients) {
    result.left_behind += client->end == Client::End::kNone;
    if (client->arrived < measured_from) continue;
    ++result.requests;
    if (client->end == Client::End::kInTime) {
      ++result.in_time;
      good_tokens += client->answer;
    } else if (client->end == Client::End::kRefused) {
      ++result.refused;
      refusals.push_back(client->ended - client->arrived);
    } else {
      ++result.late;
    }
  }
  result.good_tokens_per_second =
      static_cast<double>(good_tokens) / absl::ToDoubleSeconds(options.measured);
  if (!refusals.empty()) {
    auto p99 = refusals.begin() + static_cast<int64_t>(refusals.size() * 99 / 100);
    std::nth_element(refusals.begin(), p99, refusals.end());
    result.refusal_p99 = *p99;
  }
  result.left_behind += admission.in_flight() + admission.bytes();
  result.left_behind += static_cast<int64_t>(queue.waiting());
  for (const auto& replica : replicas) result.left_behind += replica->places();
  return result;
}

}  // namespace qwenserve
