#include "tests/engine/schedule/simulation.h"

#include <algorithm>
#include <utility>

#include "engine/cache/kv_cache.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

constexpr int32_t kEos = 3;
constexpr int kTenants = 2;

// A sequence's seed says which tenant it belongs to, so that the device can tell.
int TenantOfSeed(uint64_t seed) { return static_cast<int>(seed % kTenants); }

}  // namespace

Simulation::Simulation(uint32_t seed, bool run_ahead)
    : random_(seed),
      options_(RandomOptions(run_ahead)),
      timed_(!OneIn(4)),
      scheduler_(options_),
      device_(options_.num_blocks, options_.reads_last_id) {
  for (int i = 0; i < 3; ++i) {
    std::vector<int32_t> ids(options_.max_model_len);
    for (int32_t& id : ids) id = Pick(0, kFakeVocab - 1);
    beginnings_.push_back(std::move(ids));
  }
}

int Simulation::Pick(int low, int high) {
  return low + static_cast<int>(random_() % static_cast<uint32_t>(high - low + 1));
}

SchedulerOptions Simulation::RandomOptions(bool run_ahead) {
  SchedulerOptions options;
  options.max_model_len = Pick(20, 120);
  options.num_blocks = BlocksFor(options.max_model_len) + Pick(0, OneIn(3) ? 40 : 5);
  options.max_batch_tokens = Pick(1, OneIn(2) ? 40 : 200);
  options.max_running = Pick(1, 6);
  options.max_waiting = 1000;
  options.vocab_size = kFakeVocab;
  options.eos_ids = {kEos};
  options.prefix_cache = !OneIn(4);
  options.fingerprint = "f";
  options.rope_variant = FakeRopeVariant;
  options.whole_prompts = OneIn(8);
  options.run_ahead = run_ahead;
  options.reads_last_id = OneIn(2);
  if (OneIn(3)) options.max_step = absl::Milliseconds(Pick(1, 100));
  options.priority_head_start = absl::Milliseconds(Pick(0, 200));
  options.resumed_head_start = absl::Milliseconds(Pick(0, 500));
  return options;
}

void Simulation::Run() {
  const int total = Pick(1, 14);
  for (int step = 0; open_ > 0 || submitted_ < total || !under_way_.empty(); ++step) {
    ASSERT_LT(step, 5000) << "somebody starves";
    while (submitted_ < total && OneIn(4)) SubmitGroup();
    Disturb();
    Step();
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_EQ(scheduler_.free_blocks(), scheduler_.total_blocks());
  EXPECT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), 0);
  for (const auto& [id, client] : clients_) CheckEnd(id, client);
  CheckTurns();
  CheckAccounts();
}

std::vector<int32_t> Simulation::RandomPrompt() {
  const int length = Pick(1, static_cast<int>(options_.max_model_len) - 1);
  std::vector<int32_t> prompt;
  if (!clients_.empty() && OneIn(3)) {
    // The next turn of a chat: an earlier prompt and as much of its answer as there was.
    const Client& earlier =
        std::next(clients_.begin(), Pick(0, static_cast<int>(clients_.size()) - 1))->second;
    prompt = earlier.prompt;
    prompt.insert(prompt.end(), earlier.received.begin(), earlier.received.end());
  } else {
    prompt = beginnings_[Pick(0, 2)];
    prompt.resize(Pick(0, length));
  }
  while (static_cast<int>(prompt.size()) < length) prompt.push_back(Pick(0, kFakeVocab - 1));
  prompt.resize(length);
  return prompt;
}

void Simulation::SubmitGroup() {
  SequenceRequest request;
  request.prompt_ids = RandomPrompt();
  const int room = static_cast<int>(options_.max_model_len - request.prompt_ids.size());
  request.sampling.max_tokens = Pick(1, room);
  request.sampling.stop_token_ids = {Pick(0, 30)};
  request.priority = Pick(0, 2);
  if (OneIn(10)) request.sampling.num_prompt_logprobs = Pick(0, 3);
  if (OneIn(8)) request.sampling.repetition_penalty = 1.5f;
  const int tenant = Pick(0, kTenants - 1);
  request.cache_salt = std::string(1, static_cast<char>('a' + tenant));
  if (OneIn(10)) request.deadline = now_ + absl::Milliseconds(Pick(0, 1000));
  const int samples = OneIn(3) ? Pick(2, 4) : 1;
  for (int i = 0; i < samples; ++i) {
    request.sample_index = i;
    request.sampling.seed = static_cast<uint64_t>(random_()) * kTenants + tenant;
    Submit(request);
  }
}

bool Simulation::MustRefuse(const SequenceRequest& request) const {
  return options_.whole_prompts &&
         (!request.resumed_ids.empty() ||
          static_cast<int64_t>(request.prompt_ids.size()) > options_.max_batch_tokens);
}

void Simulation::Submit(SequenceRequest request) {
  ++submitted_;
  Client client;
  client.prompt = request.prompt_ids;
  std::vector<int32_t> tokens = request.prompt_ids;
  const int64_t prompt = static_cast<int64_t>(tokens.size());
  client.expected_finish = FinishReason::kLength;
  for (int i = 0; i < request.sampling.max_tokens; ++i) {
    const int32_t next = FakeNextToken(tokens, prompt, request.sampling.seed);
    if (next == kEos || next == request.sampling.stop_token_ids[0]) {
      client.expected_finish = FinishReason::kStop;
      break;
    }
    tokens.push_back(next);
    client.expected.push_back(next);
  }
  if (OneIn(4)) {
    const int resumed = Pick(0, static_cast<int>(client.expected.size()));
    request.resumed_ids.assign(client.expected.begin(), client.expected.begin() + resumed);
    client.received = request.resumed_ids;
    client.was_complete = resumed == request.sampling.max_tokens;
  }
  client.deadline = request.deadline;
  client.scored = request.sampling.num_prompt_logprobs >= 0;
  client.patient = !OneIn(3);
  client.credit = request.credit = client.patient ? 1000 : Pick(0, 5);
  client.accepted = now_;
  client.rows = request.prompt_ids.size() + request.resumed_ids.size();
  client.turn = now_ - request.priority * options_.priority_head_start;
  if (!request.resumed_ids.empty()) client.turn -= options_.resumed_head_start;
  const bool must_refuse = MustRefuse(request);
  const bool may_refuse = request.deadline != absl::InfiniteFuture();
  auto id = scheduler_.Add(std::move(request), now_);
  EXPECT_FALSE(must_refuse && id.ok());
  if (!id.ok()) {
    EXPECT_TRUE(must_refuse || may_refuse) << id.status();
    return;
  }
  ASSERT_EQ(clients_.count(*id), 0);
  clients_[*id] = std::move(client);
  ++open_;
}

void Simulation::Disturb() {
  for (auto& [id, client] : clients_) {
    if (client.finishes > 0) continue;
    if (OneIn(200) && !client.cancelled) {
      client.cancelled = true;
      client.cancel_step = step_;
      scheduler_.Cancel(id);
    }
    if (client.credit < 3 && OneIn(5)) {
      const int credit = Pick(1, 8);
      client.credit += credit;
      scheduler_.AddCredit(id, credit);
    }
  }
}

void Simulation::CheckPlan(const StepPlan& plan) const {
  int64_t rows = 0;
  for (const PlanSequence& part : plan.sequences) {
    const int64_t ids = static_cast<int64_t>(part.ids.size());
    rows += ids;
    if (!options_.whole_prompts) continue;
    EXPECT_EQ(ids, part.first_position < part.prompt_tokens ? part.prompt_tokens : 1);
  }
  EXPECT_LE(rows, options_.max_batch_tokens);
  EXPECT_LE(static_cast<int64_t>(plan.sequences.size()), options_.max_running);
  if (!plan.sequences.empty() || !under_way_.empty()) return;
  for (const auto& [id, client] : clients_) {
    EXPECT_TRUE(client.finishes > 0 || client.credit == 0) << "idle though " << id << " waits";
  }
}

absl::Duration Simulation::Duration(const StepPlan& plan) {
  double ms = 5;
  for (const PlanSequence& part : plan.sequences) {
    ms += static_cast<double>(part.ids.size()) *
          (0.2 + 0.01 * static_cast<double>(part.first_position));
  }
  return absl::Milliseconds(ms * Pick(80, OneIn(20) ? 1000 : 120) / 100);
}

void Simulation::Step() {
  std::vector<SequenceEvent> events;
  StepPlan plan = scheduler_.Schedule(now_, &events);
  ++step_;
  Receive(events);
  scheduler_.CheckIntegrity();
  CheckPlan(plan);
  const bool empty = plan.sequences.empty();
  if (!empty) Launch(std::move(plan));
  if (under_way_.size() > (options_.run_ahead ? 1 : 0) || (empty && !under_way_.empty())) {
    CollectOldest();
  } else if (empty) {
    now_ += absl::Milliseconds(10);
  }
}

void Simulation::Launch(StepPlan plan) {
  // Followers see the plan through its bytes.
  auto parsed = ParseStepPlan(SerializeStepPlan(plan));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  UnderWay step;
  step.tokens = device_.Run(plan, TenantOfSeed, [this] {
    const bool breaks = OneIn(2000);
    broken_rows_ |= breaks;
    return breaks;
  });
  step.plan = std::move(plan);
  now_ += absl::Microseconds(50);
  under_way_.push_back(std::move(step));
}

void Simulation::CollectOldest() {
  const UnderWay step = std::move(under_way_.front());
  under_way_.pop_front();
  const absl::Duration duration = Duration(step.plan);
  now_ += duration;
  Disturb();
  std::vector<SequenceEvent> events;
  scheduler_.Commit(step.plan, step.tokens, &events);
  if (timed_) scheduler_.StepTook(duration);
  Receive(events);
  scheduler_.CheckIntegrity();
}

void Simulation::Receive(const std::vector<SequenceEvent>& events) {
  for (const SequenceEvent& event : events) {
    ASSERT_EQ(clients_.count(event.sequence), 1);
    Client& client = clients_[event.sequence];
    EXPECT_EQ(client.finishes, 0) << "an event after the end";
    EXPECT_EQ(event.first_token_index, static_cast<int64_t>(client.received.size()));
    client.received.insert(client.received.end(), event.ids.begin(), event.ids.end());
    client.credit -= static_cast<int64_t>(event.ids.size());
    EXPECT_GE(client.credit, 0);
    client.cached = event.cached_prompt_tokens;
    EXPECT_LE(client.cached, static_cast<int64_t>(client.prompt.size()));
    if (!event.prompt_logprobs.empty()) {
      EXPECT_EQ(event.first_prompt_index, static_cast<int64_t>(client.scores.size()) + 1);
    }
    for (const SampledToken& token : event.prompt_logprobs) client.scores.push_back(token.id);
    if (event.finish == FinishReason::kNone) continue;
    ++client.finishes;
    client.finish = event.finish;
    client.started = client.accepted + event.queue_time;
    if (event.finish == FinishReason::kCancelled) {
      EXPECT_LE(step_ - client.cancel_step, 2);
    }
    --open_;
  }
}

void Simulation::CheckEnd(uint64_t id, const Client& client) {
  EXPECT_EQ(client.finishes, 1) << id;
  ASSERT_LE(client.received.size(), client.expected.size());
  EXPECT_TRUE(std::equal(client.received.begin(), client.received.end(), client.expected.begin()))
      << id;
  if (client.finish == FinishReason::kCancelled) {
    EXPECT_TRUE(client.cancelled);
  } else if (client.finish == FinishReason::kDeadline) {
    EXPECT_LE(client.deadline, now_);
  } else if (client.finish == FinishReason::kNumeric) {
    EXPECT_TRUE(broken_rows_);
  } else {
    EXPECT_EQ(client.finish, client.expected_finish) << id;
    EXPECT_EQ(client.received, client.expected) << id;
    if (client.scored && !client.was_complete) {
      EXPECT_EQ(client.scores,
                std::vector<int32_t>(client.prompt.begin() + 1, client.prompt.end()));
      EXPECT_EQ(client.cached, 0);
    }
  }
}

// Nobody starts after somebody who came later than the head starts make up for, and has not less to
// compute. With a prefix cache a sequence may wait for another's prefill meanwhile.
void Simulation::CheckTurns() const {
  if (options_.prefix_cache) return;
  for (const auto& [id, client] : clients_) {
    if (!client.patient || client.was_complete) continue;
    for (const auto& [other_id, other] : clients_) {
      // Those that were cut short may never have started.
      if (other.was_complete || other.finish != other.expected_finish) continue;
      if (other.rows < client.rows) continue;
      if (client.turn < other.turn && client.accepted <= other.started) {
        EXPECT_LE(client.started, other.started) << id << " was overtaken by " << other_id;
      }
    }
  }
}

// Every token that had to be in the cache was computed or found there.
void Simulation::CheckAccounts() const {
  const SchedulerCounters counters = scheduler_.counters();
  EXPECT_LE(counters.hit_tokens, counters.queried_tokens);
  if (!options_.prefix_cache || options_.whole_prompts) {
    EXPECT_EQ(counters.queried_tokens, 0);
  }
  int64_t needed = 0, cached = 0;
  bool whole = counters.preemptions == 0;
  for (const auto& [id, client] : clients_) {
    cached += client.cached;
    whole = whole && client.finish == client.expected_finish;
    if (client.was_complete) continue;
    needed += static_cast<int64_t>(client.prompt.size() + client.received.size()) -
              (client.finish == FinishReason::kLength ? 1 : 0);
  }
  if (counters.preemptions == 0) {
    EXPECT_GE(static_cast<int64_t>(counters.hit_tokens), cached);
  }
  EXPECT_EQ(static_cast<int64_t>(counters.cached_prompt_tokens), cached);
  const int64_t surplus = static_cast<int64_t>(counters.surplus_tokens);
  const auto unforeseen = std::count_if(clients_.begin(), clients_.end(), [](const auto& client) {
    return client.second.finish != FinishReason::kLength;
  });
  EXPECT_LE(surplus, options_.run_ahead ? 2 * unforeseen : 0);
  if (!whole) return;
  EXPECT_EQ(device_.rows() + static_cast<int64_t>(counters.hit_tokens), needed + surplus);
}

}  // namespace qwenserve
