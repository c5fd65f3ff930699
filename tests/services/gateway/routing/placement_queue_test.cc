#include "services/gateway/routing/placement_queue.h"

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

// A replica of the test's own: so many places, each request takes as many as it has sequences.
class FakeTarget : public PlacementTarget {
 public:
  FakeTarget(std::string name, uint32_t places) : places_(places) {
    hello_.set_instance_id(std::move(name));
    hello_.set_numerics_fingerprint("bits");
    hello_.set_model("m");
  }
  const v1::ServerHello& hello() const override { return hello_; }
  std::optional<uint64_t> Submit(v1::Submit, const PlaceCost&,
                                 std::shared_ptr<SequenceListener>) override {
    return std::nullopt;
  }
  void Cancel(uint64_t) override {}
  void AddCredit(uint64_t, uint32_t) override {}
  void Release(const PlaceCost& cost) override { taken_ -= cost.sequences; }
  ReplicaView View(const PlaceCost& cost) const override {
    ++views;
    return {hello_.instance_id(), uint64_t{100} * taken_, taken_ + cost.sequences <= places_};
  }
  bool Reserve(const PlaceCost& cost) override {
    if (!alive) return false;
    taken_ += cost.sequences;
    return true;
  }

  bool alive = true;
  mutable uint64_t views = 0;

 private:
  v1::ServerHello hello_;
  const uint32_t places_;
  uint32_t taken_ = 0;
};

class FakeListener : public PlacementListener {
 public:
  void OnPlaced(std::shared_ptr<GeneratorReplica> replica) override {
    ++calls;
    placed = std::move(replica);
  }
  void OnNotPlaced(absl::Status error) override {
    ++calls;
    status = std::move(error);
  }
  std::shared_ptr<GeneratorReplica> placed;
  absl::Status status;
  int calls = 0;
};

class PlacementQueueTest : public testing::Test {
 protected:
  PlacementQueueTest() : registry_("gateway"), metrics_(registry_) {}

  void Start(size_t replicas, uint32_t places, PlacementQueue::Settings settings = {}) {
    for (size_t i = 0; i < replicas; ++i) {
      targets_.push_back(std::make_shared<FakeTarget>(std::string(1, 'a' + i), places));
    }
    queue_ = std::make_unique<PlacementQueue>(
        [this](const PlacementRequest& request) {
          std::vector<std::shared_ptr<PlacementTarget>> found;
          for (const auto& target : targets_) {
            if (target->alive && Allows(request, target->hello())) found.push_back(target);
          }
          return found;
        },
        settings, [this] { return now_; }, 1, &metrics_);
  }

  std::shared_ptr<FakeListener> Place(PlacementRequest request) {
    auto listener = std::make_shared<FakeListener>();
    request.model = "m";
    queue_->Place(std::move(request), listener);
    return listener;
  }
  std::shared_ptr<FakeListener> Place(uint32_t sequences = 1, int32_t priority = 0) {
    PlacementRequest request;
    request.cost = {sequences, 10, 100};
    request.priority = priority;
    return Place(std::move(request));
  }
  void Finish(const std::shared_ptr<FakeListener>& listener, uint32_t sequences = 1) {
    std::exchange(listener->placed, nullptr)->Release({sequences, 0, 0});
    queue_->Pump();
  }

  // Teaches it that an answer's token costs the replicas so long, while requests wait.
  void Learn(absl::Duration cost, uint32_t answer = 10) {
    queue_->Tick(now_);
    for (int i = 0; i < 4; ++i) {
      ReplicaWork work;
      work.answer_tokens =
          static_cast<uint64_t>(targets_.size() * (absl::Milliseconds(500) / cost));
      work.answers.assign(20, answer);
      queue_->OnWork("m", "", work);
      now_ += absl::Milliseconds(500);
      queue_->Tick(now_);
    }
  }

  double Sheds(GatewayMetrics::Shed shed) const { return metrics_.sheds[shed]->Value(); }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  Metrics registry_;
  GatewayMetrics metrics_;
  std::vector<std::shared_ptr<FakeTarget>> targets_;
  std::unique_ptr<PlacementQueue> queue_;
};

TEST_F(PlacementQueueTest, PriorityGoesBeforeArrivalAndTheResumedBeforeBoth) {
  Start(1, 1);
  auto running = Place();
  ASSERT_NE(running->placed, nullptr);
  std::vector<std::shared_ptr<FakeListener>> waiting;
  for (int priority : {0, 5, 0, 5, -1}) waiting.push_back(Place(1, priority));
  PlacementRequest resumed;
  resumed.resumed = true;
  resumed.priority = -7;
  waiting.push_back(Place(resumed));
  for (size_t expected : {5, 1, 3, 0, 2, 4}) {
    Finish(running);
    for (size_t i = 0; i < waiting.size(); ++i) {
      EXPECT_EQ(waiting[i]->placed != nullptr, i == expected) << i << " " << expected;
    }
    running = waiting[expected];
  }
  EXPECT_EQ(queue_->waiting(), 0u);
}

TEST_F(PlacementQueueTest, AFullQueueShedsItsNewestOfTheLowestPriority) {
  Start(1, 1, {.max_waiting = 3});
  auto running = Place();
  auto first = Place(1, 0);
  auto second = Place(1, 0);
  auto high = Place(1, 1);
  // One like the lowest is the newest of them itself.
  auto late = Place(1, 0);
  EXPECT_EQ(ErrorReason(late->status), kReasonQueueFull);
  EXPECT_GT(ErrorRetryAfter(late->status), absl::ZeroDuration());
  EXPECT_EQ(Sheds(GatewayMetrics::kShedQueueFull), 1);
  // A higher one pushes out the newest of the lowest.
  auto higher = Place(1, 2);
  EXPECT_EQ(higher->calls, 0);
  EXPECT_EQ(ErrorReason(second->status), kReasonQueueFull);
  EXPECT_EQ(Sheds(GatewayMetrics::kShedDisplaced), 1);
  EXPECT_EQ(first->calls + high->calls, 0);
  // What was accepted before is neither refused nor pushed out, nor does it push out others.
  PlacementRequest request;
  request.resumed = true;
  auto resumed = Place(request);
  EXPECT_EQ(resumed->calls + first->calls, 0);
  EXPECT_EQ(queue_->waiting(), 4u);
}

TEST_F(PlacementQueueTest, ALargeRequestGetsItsRoomAndBlocksOnlyOneReplica) {
  Start(3, 4);
  std::vector<std::shared_ptr<FakeListener>> running;
  for (int i = 0; i < 12; ++i) running.push_back(Place());
  auto large = Place(4);
  std::vector<std::shared_ptr<FakeListener>> small;
  for (int i = 0; i < 100; ++i) small.push_back(Place());
  // Each finish makes room for one small request, until the replica that the large one has claimed
  // is empty; the others stay at work all the while.
  int finished = 0;
  size_t next = 0;
  while (large->placed == nullptr && finished < 100) {
    Finish(running[finished++]);
    while (next < small.size() && small[next]->placed != nullptr) running.push_back(small[next++]);
  }
  EXPECT_NE(large->placed, nullptr);
  EXPECT_LE(finished, 12);
  EXPECT_EQ(next, static_cast<size_t>(finished) - 4);
}

TEST_F(PlacementQueueTest, AWaitThatIsTooLongIsRefusedAtOnceWithATruthfulHint) {
  Start(1, 1, {.max_wait = absl::Seconds(1)});
  auto running = Place();
  auto waiting = Place();
  EXPECT_EQ(waiting->calls, 0);
  // An answer has 10 tokens of 40 ms each: two and a half a second.
  Learn(absl::Milliseconds(40));
  auto third = Place();
  EXPECT_EQ(third->calls, 0);
  auto fourth = Place();
  EXPECT_EQ(fourth->calls, 1);
  EXPECT_EQ(ErrorReason(fourth->status), kReasonQueueFull);
  EXPECT_EQ(Sheds(GatewayMetrics::kShedWait), 1);
  PlacementRequest empty;
  empty.model = "m";
  empty.cost = {1, 0, 100};
  EXPECT_TRUE(queue_->Foresee(empty).ok());
  // When the hint is over and the queue has moved on as predicted, there is room.
  const absl::Duration hint = ErrorRetryAfter(fourth->status);
  EXPECT_LE(hint, absl::Seconds(2));
  now_ += hint;
  Finish(running);
  EXPECT_NE(waiting->placed, nullptr);
  EXPECT_EQ(Place()->calls, 0);
}

TEST_F(PlacementQueueTest, ADeadlineThatCannotBeMetIsRefusedAtOnce) {
  Start(1, 1);
  auto running = Place();
  auto waiting = Place();
  Learn(absl::Milliseconds(100));
  PlacementRequest request;
  request.cost = {1, 10, 100};
  // A second of others' work, a second of its own place's turn.
  request.deadline = now_ + absl::Seconds(3.7);
  auto hasty = Place(request);
  EXPECT_EQ(hasty->status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(hasty->status), kReasonDeadlineUnreachable);
  EXPECT_GT(ErrorRetryAfter(hasty->status), absl::ZeroDuration());
  EXPECT_EQ(Sheds(GatewayMetrics::kShedDeadline), 1);
  request.deadline = now_ + absl::Seconds(6);
  auto patient = Place(request);
  EXPECT_EQ(patient->calls, 0);
  // A higher priority has less ahead of it.
  request.priority = 1;
  request.deadline = now_ + absl::Seconds(3.7);
  EXPECT_EQ(Place(request)->calls, 0);
}

TEST_F(PlacementQueueTest, WhatWaitsInVainIsEndedBeforeItsDeadline) {
  Start(1, 1);
  auto running = Place();
  PlacementRequest request;
  request.cost = {1, 10, 100};
  request.deadline = now_ + absl::Seconds(20);
  // Nothing is known yet.
  std::vector<std::shared_ptr<FakeListener>> waiting;
  for (int i = 0; i < 100; ++i) waiting.push_back(Place(request));
  EXPECT_EQ(queue_->waiting(), 100u);
  Learn(absl::Milliseconds(100));
  // 18 s are left, and a little more than a second for each of those ahead, of which three
  // quarters count.
  EXPECT_EQ(waiting[10]->calls, 0);
  EXPECT_EQ(waiting[20]->calls, 0);
  EXPECT_EQ(ErrorReason(waiting[30]->status), kReasonDeadlineUnreachable);
  EXPECT_EQ(ErrorReason(waiting[99]->status), kReasonDeadlineUnreachable);
  // Nothing comes of what is late at the front either.
  now_ += absl::Seconds(30);
  Finish(running);
  EXPECT_EQ(waiting[0]->placed, nullptr);
  EXPECT_EQ(waiting[0]->calls, 1);
}

TEST_F(PlacementQueueTest, ARequestForWhichNoReplicaIsLeftEnds) {
  Start(2, 1);
  auto a = Place();
  auto b = Place();
  PlacementRequest request;
  request.excluded = {"a"};
  request.resumed = true;
  auto picky = Place(request);
  auto any = Place();
  EXPECT_EQ(picky->calls, 0);
  targets_[1]->alive = false;
  queue_->OnReplicas();
  EXPECT_EQ(picky->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(any->calls, 0);
  request.fingerprint = "other bits";
  EXPECT_EQ(Place(request)->status.code(), absl::StatusCode::kUnavailable);
  targets_[0]->alive = false;
  queue_->OnReplicas();
  EXPECT_EQ(any->status.code(), absl::StatusCode::kUnavailable);
}

TEST_F(PlacementQueueTest, AnEventCostsTheSameHoweverManyWait) {
  Start(8, 4, {.max_waiting = 10000});
  std::vector<std::shared_ptr<FakeListener>> running;
  for (int i = 0; i < 32; ++i) running.push_back(Place());
  auto views = [&] {
    uint64_t sum = 0;
    for (auto& target : targets_) sum += std::exchange(target->views, 0);
    return sum;
  };
  std::vector<std::shared_ptr<FakeListener>> waiting;
  for (int i = 0; i < 10; ++i) waiting.push_back(Place());
  views();
  Finish(running[0]);
  const uint64_t few = views();
  for (int i = 0; i < 5000; ++i) waiting.push_back(Place());
  EXPECT_EQ(views(), 0u);
  Finish(running[1]);
  EXPECT_LE(views(), few);
  for (auto& listener : waiting) queue_->Withdraw(listener.get());
  EXPECT_EQ(queue_->waiting(), 0u);
}

TEST_F(PlacementQueueTest, EachRequestHearsOnceOrIsWithdrawnOnce) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    auto draw = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    targets_.clear();
    Start(3, 4, {.max_waiting = 20, .max_wait = absl::Seconds(4)});
    struct Item {
      std::shared_ptr<FakeListener> listener;
      uint32_t sequences;
      bool withdrawn = false;
    };
    std::vector<Item> items;
    for (int step = 0; step < 400; ++step) {
      now_ += absl::Milliseconds(draw(200));
      switch (draw(6)) {
        case 0:
        case 1:
        case 2: {
          PlacementRequest request;
          request.cost = {1 + draw(4), draw(1000), 1 + draw(500)};
          request.priority = static_cast<int32_t>(draw(5)) - 2;
          request.resumed = draw(10) == 0;
          if (draw(3) == 0) request.excluded = {std::string(1, 'a' + draw(3))};
          if (draw(2) == 0) request.deadline = now_ + absl::Seconds(draw(6));
          const uint32_t sequences = request.cost.sequences;
          items.push_back({Place(std::move(request)), sequences});
          break;
        }
        case 3:
        case 4:
          for (Item& item : items) {
            if (item.listener->placed == nullptr || draw(3) > 0) continue;
            ReplicaWork work;
            work.prompt_tokens = draw(1000);
            work.answer_tokens = draw(500);
            work.answers = {draw(500)};
            queue_->OnWork("m", "", work);
            Finish(item.listener, item.sequences);
            break;
          }
          queue_->Tick(now_);
          break;
        default:
          for (Item& item : items) {
            if (item.withdrawn || item.listener->calls > 0 || draw(5) > 0) continue;
            queue_->Withdraw(item.listener.get());
            item.withdrawn = true;
            break;
          }
      }
    }
    // The rest is worked off, deadlines or not.
    for (int round = 0; round < 400; ++round) {
      for (Item& item : items) {
        if (item.listener->placed != nullptr) Finish(item.listener, item.sequences);
      }
    }
    EXPECT_EQ(queue_->waiting(), 0u) << seed;
    for (size_t i = 0; i < items.size(); ++i) {
      EXPECT_EQ(items[i].listener->calls, items[i].withdrawn ? 0 : 1) << seed << " " << i;
      EXPECT_EQ(items[i].listener.use_count(), 1) << seed << " " << i;
    }
  }
}

TEST(AllowsTest, ARequestMayRuleOutReplicas) {
  v1::ServerHello hello;
  hello.set_instance_id("a");
  hello.set_model("qwen");
  hello.set_tokenizer_hash("words");
  hello.set_numerics_fingerprint("bits");
  PlacementRequest request;
  request.model = "qwen";
  request.tokenizer_hash = "words";
  EXPECT_TRUE(Allows(request, hello));
  request.fingerprint = "bits";
  EXPECT_TRUE(Allows(request, hello));
  request.excluded = {"b", "c"};
  EXPECT_TRUE(Allows(request, hello));
  request.excluded = {"b", "a"};
  EXPECT_FALSE(Allows(request, hello));
  request.excluded.clear();
  request.fingerprint = "other bits";
  EXPECT_FALSE(Allows(request, hello));
  request.fingerprint.clear();
  request.model = "other";
  EXPECT_FALSE(Allows(request, hello));
  request.model = "qwen";
  request.tokenizer_hash = "other words";
  EXPECT_FALSE(Allows(request, hello));
}

}  // namespace
}  // namespace qwenserve
