// Calls of every kind through the real door, key limits and queue, in random order of everything
// that can happen to them: whatever their end, nothing of them stays.

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gtest/gtest.h"
#include "services/gateway/call/generate_call.h"
#include "services/gateway/routing/placement_queue.h"
#include "tests/services/gateway/call/one_model_catalog.h"

namespace qwenserve {
namespace {

constexpr uint32_t kWindow = 8;

class ScheduleSink : public CallSink {
 public:
  void Wake() override {}
  void Drop() override { dropped = true; }
  bool dropped = false;
};

class ScheduleText : public TextService {
 public:
  struct Item {
    v1::DetokenizeItem item;
    std::shared_ptr<TextListener> listener;
  };
  std::function<void()> Prepare(v1::PrepareRequest, const std::string&, absl::Time,
                                PrepareCallback done) override {
    prepares.push_back(std::move(done));
    return [] {};
  }
  uint64_t NewKey() override { return ++keys_; }
  void Detokenize(v1::DetokenizeItem item, const std::string&,
                  std::shared_ptr<TextListener> listener) override {
    items.push_back({std::move(item), std::move(listener)});
  }
  void Flush() override {}

  std::deque<PrepareCallback> prepares;
  std::deque<Item> items;

 private:
  uint64_t keys_ = 0;
};

class ScheduleReplica : public PlacementTarget {
 public:
  struct Sequence {
    std::shared_ptr<SequenceListener> listener;  // null: cancelled
    uint32_t sample = 0;
    uint32_t attempt = 0;
    uint32_t produced = 0;
    uint32_t credit = 0;
    uint32_t max_tokens = 0;
    bool logprobs = false;
  };

  ScheduleReplica(std::string name, uint32_t places) : places_(places) {
    hello_.set_instance_id(std::move(name));
    hello_.set_model("m");
    hello_.set_tokenizer_hash("h");
    hello_.set_numerics_fingerprint("bits");
  }
  const v1::ServerHello& hello() const override { return hello_; }
  std::optional<uint64_t> Submit(v1::Submit submit, const PlaceCost&,
                                 std::shared_ptr<SequenceListener> listener) override {
    if (lost) return std::nullopt;
    Sequence& sequence = sequences[++numbers_];
    sequence.listener = std::move(listener);
    sequence.sample = submit.sample_index();
    sequence.attempt = submit.attempt();
    sequence.produced = static_cast<uint32_t>(submit.resumed_ids_size());
    sequence.credit = submit.initial_credit();
    sequence.max_tokens = submit.max_tokens();
    sequence.logprobs = submit.has_top_logprobs();
    return numbers_;
  }
  void Cancel(uint64_t sequence) override {
    auto found = sequences.find(sequence);
    if (found != sequences.end()) found->second.listener = nullptr;
  }
  void AddCredit(uint64_t sequence, uint32_t tokens) override {
    auto found = sequences.find(sequence);
    if (found != sequences.end()) found->second.credit += tokens;
  }
  void Release(const PlaceCost& cost) override { taken -= cost.sequences; }
  ReplicaView View(const PlaceCost& cost) const override {
    return {hello_.instance_id(), taken, taken + cost.sequences <= places_};
  }
  bool Reserve(const PlaceCost& cost) override {
    if (lost) return false;
    taken += cost.sequences;
    return true;
  }

  std::map<uint64_t, Sequence> sequences;
  uint32_t taken = 0;
  bool lost = false;

 private:
  v1::ServerHello hello_;
  const uint32_t places_;
  uint64_t numbers_ = 0;
};

class Schedule {
 public:
  explicit Schedule(uint32_t seed)
      : random_(seed),
        registry_("gateway"),
        metrics_(registry_),
        admission_({.max_requests = 12, .max_bytes = 40000}, &metrics_),
        key_limits_([this] { return now_; }, &metrics_),
        queue_([this](const PlacementRequest& request) { return Candidates(request); },
               {.max_waiting = 4, .max_wait = absl::Seconds(20)}, [this] { return now_; }, seed,
               &metrics_) {
    services_.admission = &admission_;
    services_.key_limits = &key_limits_;
    services_.text = &text_;
    services_.placer = &queue_;
    services_.catalog = [catalog = OneModelCatalog(100)] { return catalog; };
    services_.metrics = &metrics_;
    services_.retries = &retries_;
    services_.clock = [this] { return now_; };
    services_.settings.credit_window = kWindow;
    services_.settings.slow_client_timeout = absl::Seconds(10);
    services_.settings.max_request_time = absl::Seconds(40);
    for (int i = 0; i < 2; ++i) AddReplica();
  }

  void Run(int steps) {
    for (int i = 0; i < steps; ++i) {
      Step();
      // What one request alone may hold beyond the limit is bounded by its own size.
      EXPECT_LE(admission_.bytes(), 2 * 40000);
      EXPECT_LE(admission_.in_flight(), 12);
      // Those that lost their replica wait besides.
      EXPECT_LE(queue_.waiting(), 4u + 12u * 4u);
    }
  }

  // Every call comes to its end, by itself or by its client's leaving.
  void Drain() {
    for (int i = 0; i < 2000 && open() > 0; ++i) {
      now_ += absl::Milliseconds(100);
      while (!text_.prepares.empty()) AnswerPrepare(true);
      for (auto& replica : replicas_) {
        for (uint64_t number : Numbers(*replica)) Produce(*replica, number, true);
      }
      while (!text_.items.empty()) AnswerItem(true);
      for (size_t c = 0; c < calls_.size(); ++c) Pull(calls_[c], true);
      Tick();
    }
  }

  size_t open() const {
    return std::count_if(calls_.begin(), calls_.end(),
                         [](const Call& call) { return !call.ended; });
  }
  // Everything that may be left of calls which are over.
  std::string Left() {
    std::string left;
    for (const Call& call : calls_) {
      if (call.terminals != 1) left += "a call had " + std::to_string(call.terminals) + " ends; ";
    }
    for (auto& replica : replicas_) {
      for (uint64_t number : Numbers(*replica)) Produce(*replica, number, true);
    }
    calls_.clear();
    text_.items.clear();
    text_.prepares.clear();
    for (const auto& [name, count] :
         std::map<std::string, int64_t>{{"requests", admission_.in_flight()},
                                        {"bytes", admission_.bytes()},
                                        {"key places", key_limits_.in_flight()},
                                        {"waiting", static_cast<int64_t>(queue_.waiting())},
                                        {"places", Places()}}) {
      if (count != 0) left += std::to_string(count) + " " + name + "; ";
    }
    return left;
  }
  std::map<absl::StatusCode, int> ends;
  int drops = 0;

 private:
  struct Call {
    std::shared_ptr<GenerateCall> call;
    std::shared_ptr<ScheduleSink> sink;
    bool whole = false;
    bool reads = true;
    bool holding = false;
    bool ended = false;
    int terminals = 0;
  };

  uint32_t Draw(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  void AddReplica() {
    replicas_.push_back(
        std::make_shared<ScheduleReplica>("replica" + std::to_string(++replica_names_), 3));
  }
  std::vector<std::shared_ptr<PlacementTarget>> Candidates(const PlacementRequest& request) const {
    std::vector<std::shared_ptr<PlacementTarget>> found;
    for (const auto& replica : replicas_) {
      if (!replica->lost && Allows(request, replica->hello())) found.push_back(replica);
    }
    return found;
  }
  int64_t Places() const {
    int64_t places = 0;
    for (const auto& replica : replicas_) places += replica->taken;
    return places;
  }
  static std::vector<uint64_t> Numbers(const ScheduleReplica& replica) {
    std::vector<uint64_t> numbers;
    for (const auto& [number, sequence] : replica.sequences) numbers.push_back(number);
    return numbers;
  }

  void Arrive() {
    Call call;
    call.sink = std::make_shared<ScheduleSink>();
    call.whole = Draw(3) == 0;
    call.reads = Draw(5) > 0;
    const absl::Time deadline =
        Draw(2) == 0 ? absl::InfiniteFuture() : now_ + absl::Seconds(Draw(20));
    call.call = std::make_shared<GenerateCall>(
        call.whole ? GatewayMetrics::kComplete : GatewayMetrics::kStreamComplete, deadline,
        services_, call.sink);
    GenerateRequest request;
    request.prompt.set_text("x");
    request.whole = call.whole;
    request.options.set_n(1 + Draw(4));
    request.options.set_max_tokens(1 + Draw(40));
    request.options.set_priority(static_cast<int32_t>(Draw(3)));
    if (Draw(3) == 0) request.options.set_top_logprobs(Draw(3));
    Caller caller;
    if (Draw(3) > 0) {
      auto grant = std::make_shared<KeyGrant>();
      grant->sha256 = std::to_string(Draw(3));
      grant->requests_per_minute = 60;
      grant->tokens_per_minute = 1000;
      grant->concurrent_requests = 3;
      grant->priority_max = 1;
      caller.grant = std::move(grant);
    }
    calls_.push_back(call);
    call.call->Start({std::move(caller), std::move(request), Draw(1000)});
  }

  void AnswerPrepare(bool well) {
    TextService::PrepareCallback done = std::move(text_.prepares.front());
    text_.prepares.pop_front();
    if (!well && Draw(4) == 0) return done(absl::UnavailableError("no tokenizer"));
    v1::PrepareResponse response;
    for (uint32_t i = 0; i <= Draw(30); ++i) response.add_prompt_ids(7);
    response.set_tokenizer_hash("h");
    done(std::move(response));
  }

  void Produce(ScheduleReplica& replica, uint64_t number, bool well) {
    ScheduleReplica::Sequence& sequence = replica.sequences.at(number);
    v1::SequenceEvent event;
    event.set_sequence(number);
    event.set_attempt(sequence.attempt);
    event.set_first_token_index(sequence.produced);
    bool ended = sequence.listener == nullptr;
    if (!ended) {
      const uint32_t tokens =
          std::min({1 + Draw(4), sequence.credit, sequence.max_tokens - sequence.produced});
      for (uint32_t i = 0; i < tokens; ++i) {
        event.add_token_ids(i);
        if (sequence.logprobs) event.add_logprobs();
      }
      sequence.produced += tokens;
      sequence.credit -= tokens;
      ended = sequence.produced == sequence.max_tokens;
      if (ended) event.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_LENGTH);
      if (!well && Draw(30) == 0) {
        ended = true;
        event.mutable_finish()->set_reason(v1::SEQUENCE_FINISH_REASON_ERROR);
        event.mutable_finish()->mutable_status()->set_code(13);
      }
      if (tokens == 0 && !ended) return;
    }
    const std::shared_ptr<SequenceListener> listener = sequence.listener;
    const uint32_t sample = sequence.sample;
    if (ended) {
      replica.sequences.erase(number);
      --replica.taken;
    }
    if (listener != nullptr) listener->OnSequenceEvent(sample, std::move(event));
    if (ended) queue_.Pump();
  }

  void AnswerItem(bool well) {
    ScheduleText::Item item = std::move(text_.items.front());
    text_.items.pop_front();
    if (!well && Draw(40) == 0) {
      return item.listener->OnTextFailed(item.item.key(), absl::UnavailableError("no tokenizer"));
    }
    v1::DetokenizeResult result;
    result.set_key(item.item.key());
    result.set_seq(item.item.seq());
    for (int i = 0; i < item.item.ids_size(); ++i) {
      result.mutable_text()->append("x");
      result.add_text_lengths(i + 1);
    }
    for (int i = 0; i < item.item.lookup_ids_size(); ++i) result.add_lookup_tokens("x");
    item.listener->OnText(std::move(result));
  }

  // The transport's part.
  void Pull(Call& call, bool well) {
    if (call.ended) return;
    if (call.sink->dropped) {
      ++drops;
      call.call->Abort();
      call.reads = true;
    } else if (!well && !call.reads && !call.whole) {
      // Takes one message, and reads no further.
      if (call.holding) return;
    }
    if (call.holding) {
      call.holding = false;
      call.call->Taken();
    }
    GenerateCall::Output output = call.call->Next();
    if (std::holds_alternative<std::monostate>(output)) return;
    if (auto* status = std::get_if<absl::Status>(&output)) {
      ++ends[status->code()];
    } else if (std::holds_alternative<v1::Finished>(output)) {
      ++ends[absl::StatusCode::kOk];
    } else {
      call.holding = true;
      return;
    }
    ++call.terminals;
    call.ended = true;
    EXPECT_TRUE(std::holds_alternative<std::monostate>(call.call->Next()));
  }

  void Tick() {
    for (Call& call : calls_) call.call->Tick(now_);
    queue_.Tick(now_);
  }

  void Step() {
    switch (Draw(12)) {
      case 0:
        return Arrive();
      case 1:
        if (!text_.prepares.empty()) AnswerPrepare(false);
        return;
      case 2:
      case 3:
      case 4: {
        ScheduleReplica& replica = *replicas_[Draw(static_cast<uint32_t>(replicas_.size()))];
        const std::vector<uint64_t> numbers = Numbers(replica);
        if (numbers.empty()) return;
        return Produce(replica, numbers[Draw(static_cast<uint32_t>(numbers.size()))], false);
      }
      case 5:
      case 6:
        if (!text_.items.empty()) AnswerItem(false);
        return;
      case 7:
      case 8:
      case 9:
        if (!calls_.empty()) Pull(calls_[Draw(static_cast<uint32_t>(calls_.size()))], false);
        return;
      case 10:
        now_ += absl::Milliseconds(Draw(400));
        return Tick();
      default:
        if (Draw(10) == 0 && !calls_.empty()) {
          calls_[Draw(static_cast<uint32_t>(calls_.size()))].call->Abort();
        } else if (Draw(40) == 0) {
          LoseReplica();
        }
    }
  }

  void LoseReplica() {
    std::shared_ptr<ScheduleReplica> replica = replicas_.front();
    replicas_.erase(replicas_.begin());
    replica->lost = true;
    auto orphans = std::exchange(replica->sequences, {});
    for (auto& [number, sequence] : orphans) {
      if (sequence.listener == nullptr) continue;
      sequence.listener->OnGeneratorLost(sequence.sample, sequence.attempt, LossCause::kEnded);
    }
    AddReplica();
    queue_.OnReplicas();
  }

  std::mt19937 random_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  Metrics registry_;
  GatewayMetrics metrics_;
  RetryBudget retries_;
  Admission admission_;
  KeyLimits key_limits_;
  ScheduleText text_;
  std::vector<std::shared_ptr<ScheduleReplica>> replicas_;
  int replica_names_ = 0;
  PlacementQueue queue_;
  CallServices services_;
  std::vector<Call> calls_;
};

TEST(CallScheduleTest, NothingStaysOfACallWhateverItsEnd) {
  std::map<absl::StatusCode, int> ends;
  int drops = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Schedule schedule(seed);
    schedule.Run(4000);
    schedule.Drain();
    EXPECT_EQ(schedule.open(), 0u) << seed;
    EXPECT_EQ(schedule.Left(), "") << seed;
    for (const auto& [code, count] : schedule.ends) ends[code] += count;
    drops += schedule.drops;
  }
  // Every kind of end was among them.
  for (absl::StatusCode code :
       {absl::StatusCode::kOk, absl::StatusCode::kCancelled, absl::StatusCode::kDeadlineExceeded,
        absl::StatusCode::kResourceExhausted, absl::StatusCode::kUnavailable,
        absl::StatusCode::kPermissionDenied, absl::StatusCode::kInternal}) {
    EXPECT_GT(ends[code], 10) << absl::StatusCodeToString(code);
  }
  EXPECT_GT(drops, 10);
}

}  // namespace
}  // namespace qwenserve
