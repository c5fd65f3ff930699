// Random loads over the scheduler with a fake device on a virtual clock.
#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "engine/schedule/scheduler.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

constexpr int32_t kVocab = 1000;
constexpr int32_t kEos = 3;

// The fake model: the next token is a hash of all tokens before it, so it is right only when the
// cache held exactly the right tokens at the right positions.
int32_t NextToken(const std::vector<int32_t>& tokens) {
  uint64_t hash = 1469598103934665603u;
  for (int32_t token : tokens) hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211u;
  return static_cast<int32_t>((hash >> 20) % kVocab);
}

// The fake device: remembers in every block what was stored there.
class FakeDevice {
 public:
  explicit FakeDevice(int64_t num_blocks) : memory_(num_blocks * kKvBlockSize, -1) {}

  std::vector<SampledToken> Run(const StepPlan& plan) {
    std::vector<SampledToken> drawn;
    std::vector<bool> used(memory_.size() / kKvBlockSize, false);
    for (const PlanSequence& part : plan.sequences) {
      for (int32_t block : part.blocks) {
        EXPECT_FALSE(used[block]) << "block " << block << " belongs to two sequences";
        used[block] = true;
      }
      int64_t position = part.first_position;
      for (int32_t id : part.ids) Slot(part, position++) = id;
      if (!part.wants_logits) continue;
      std::vector<int32_t> tokens;
      for (int64_t p = 0; p < position; ++p) tokens.push_back(Slot(part, p));
      EXPECT_EQ(tokens, std::vector<int32_t>(part.sample.context_ids.begin(),
                                             part.sample.context_ids.end()));
      EXPECT_EQ(part.sample.position, position);
      drawn.push_back({.id = NextToken(tokens)});
    }
    return drawn;
  }

 private:
  int32_t& Slot(const PlanSequence& part, int64_t position) {
    return memory_[part.blocks[position / kKvBlockSize] * kKvBlockSize + position % kKvBlockSize];
  }
  std::vector<int32_t> memory_;
};

// What one client sent, and what it must get.
struct Client {
  std::vector<int32_t> expected;  // the whole answer, by the fake model alone
  FinishReason expected_finish = FinishReason::kNone;
  std::vector<int32_t> received;  // resumed ids included
  int64_t credit = 0;             // given and not used
  bool cancelled = false;
  uint64_t cancel_step = 0;
  absl::Time deadline = absl::InfiniteFuture();
  int finishes = 0;
  FinishReason finish = FinishReason::kNone;
};

class Simulation {
 public:
  explicit Simulation(uint32_t seed)
      : random_(seed),
        options_(RandomOptions()),
        scheduler_(options_),
        device_(options_.num_blocks) {}

  void Run() {
    const int total = Pick(1, 14);
    int submitted = 0;
    for (int step = 0; open_ > 0 || submitted < total; ++step) {
      ASSERT_LT(step, 5000) << "somebody starves";
      while (submitted < total && Pick(0, 3) == 0) {
        Submit();
        ++submitted;
      }
      Disturb();
      Step();
      if (testing::Test::HasFailure()) return;
      now_ += absl::Milliseconds(10);
    }
    EXPECT_EQ(scheduler_.free_blocks(), scheduler_.total_blocks());
    EXPECT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), 0);
    for (const auto& [id, client] : clients_) CheckEnd(id, client);
  }

  uint64_t preemptions() const { return scheduler_.preemptions(); }

 private:
  int Pick(int low, int high) {
    return low + static_cast<int>(random_() % static_cast<uint32_t>(high - low + 1));
  }

  SchedulerOptions RandomOptions() {
    SchedulerOptions options;
    options.max_model_len = Pick(20, 120);
    options.num_blocks = BlocksFor(options.max_model_len) + Pick(0, 5);
    options.max_batch_tokens = Pick(1, 40);
    options.max_running = Pick(1, 6);
    options.max_waiting = 1000;
    options.vocab_size = kVocab;
    options.eos_ids = {kEos};
    return options;
  }

  void Submit() {
    SequenceRequest request;
    const int prompt = Pick(1, static_cast<int>(options_.max_model_len) - 1);
    for (int i = 0; i < prompt; ++i) request.prompt_ids.push_back(Pick(0, kVocab - 1));
    request.sampling.max_tokens = Pick(1, static_cast<int>(options_.max_model_len) - prompt);
    request.sampling.stop_token_ids = {Pick(0, 30)};
    request.priority = Pick(0, 2);
    Client client;
    std::vector<int32_t> tokens = request.prompt_ids;
    client.expected_finish = FinishReason::kLength;
    for (int i = 0; i < request.sampling.max_tokens; ++i) {
      const int32_t next = NextToken(tokens);
      if (next == kEos || next == request.sampling.stop_token_ids[0]) {
        client.expected_finish = FinishReason::kStop;
        break;
      }
      tokens.push_back(next);
      client.expected.push_back(next);
    }
    if (Pick(0, 3) == 0) {
      const int resumed = Pick(0, static_cast<int>(client.expected.size()));
      request.resumed_ids.assign(client.expected.begin(), client.expected.begin() + resumed);
      client.received = request.resumed_ids;
    }
    if (Pick(0, 9) == 0)
      request.deadline = client.deadline = now_ + absl::Milliseconds(Pick(0, 300));
    client.credit = request.credit = Pick(0, 2) == 0 ? Pick(0, 5) : 1000;
    auto id = scheduler_.Add(std::move(request), now_);
    ASSERT_TRUE(id.ok()) << id.status();
    ASSERT_EQ(clients_.count(*id), 0);
    clients_[*id] = std::move(client);
    ++open_;
  }

  // Cancels and credit, at any moment between two calls of the scheduler.
  void Disturb() {
    for (auto& [id, client] : clients_) {
      if (client.finishes > 0) continue;
      if (Pick(0, 200) == 0 && !client.cancelled) {
        client.cancelled = true;
        client.cancel_step = step_;
        scheduler_.Cancel(id);
      }
      if (client.credit < 3 && Pick(0, 4) == 0) {
        const int credit = Pick(1, 8);
        client.credit += credit;
        scheduler_.AddCredit(id, credit);
      }
    }
  }

  void Step() {
    std::vector<SequenceEvent> events;
    const StepPlan plan = scheduler_.Schedule(now_, &events);
    ++step_;
    Receive(events);
    scheduler_.CheckIntegrity();
    int64_t rows = 0;
    for (const PlanSequence& part : plan.sequences) rows += static_cast<int64_t>(part.ids.size());
    EXPECT_LE(rows, options_.max_batch_tokens);
    EXPECT_LE(static_cast<int64_t>(plan.sequences.size()), options_.max_running);
    if (plan.sequences.empty()) {
      for (const auto& [id, client] : clients_) {
        EXPECT_TRUE(client.finishes > 0 || client.credit == 0) << "idle though " << id << " waits";
      }
      return;
    }
    // Followers see the plan through its bytes.
    auto parsed = ParseStepPlan(SerializeStepPlan(plan));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const std::vector<SampledToken> tokens = device_.Run(plan);
    Disturb();
    events.clear();
    scheduler_.Commit(plan, tokens, &events);
    Receive(events);
    scheduler_.CheckIntegrity();
  }

  void Receive(const std::vector<SequenceEvent>& events) {
    for (const SequenceEvent& event : events) {
      ASSERT_EQ(clients_.count(event.sequence), 1);
      Client& client = clients_[event.sequence];
      EXPECT_EQ(client.finishes, 0) << "an event after the end";
      EXPECT_EQ(event.first_token_index, static_cast<int64_t>(client.received.size()));
      client.received.insert(client.received.end(), event.ids.begin(), event.ids.end());
      client.credit -= static_cast<int64_t>(event.ids.size());
      EXPECT_GE(client.credit, 0);
      if (event.finish == FinishReason::kNone) continue;
      ++client.finishes;
      client.finish = event.finish;
      if (event.finish == FinishReason::kCancelled) {
        EXPECT_LE(step_ - client.cancel_step, 2);
      }
      --open_;
    }
  }

  void CheckEnd(uint64_t id, const Client& client) {
    EXPECT_EQ(client.finishes, 1) << id;
    ASSERT_LE(client.received.size(), client.expected.size());
    EXPECT_TRUE(std::equal(client.received.begin(), client.received.end(), client.expected.begin()))
        << id;
    if (client.finish == FinishReason::kCancelled) {
      EXPECT_TRUE(client.cancelled);
    } else if (client.finish == FinishReason::kDeadline) {
      EXPECT_LE(client.deadline, now_);
    } else {
      EXPECT_EQ(client.finish, client.expected_finish) << id;
      EXPECT_EQ(client.received, client.expected) << id;
    }
  }

  std::mt19937 random_;
  const SchedulerOptions options_;
  Scheduler scheduler_;
  FakeDevice device_;
  absl::Time now_ = absl::UnixEpoch();
  std::map<uint64_t, Client> clients_;
  int open_ = 0;
  uint64_t step_ = 0;
};

TEST(SchedulerSimulation, EveryRandomLoadEndsRightly) {
  uint64_t preemptions = 0;
  for (uint32_t seed = 1; seed <= 5000; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed);
    simulation.Run();
    preemptions += simulation.preemptions();
    if (HasFailure()) return;
  }
  EXPECT_GT(preemptions, 1000);  // the loads are tight enough to mean something
}

}  // namespace
}  // namespace qwenserve
