// What the scheduler promises in time, on a virtual clock over a device of known cost.
#include <algorithm>
#include <map>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/schedule/step_driver.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// A CPU's costs: a step reads the weights once, rows compute, attention reads the context.
struct DeviceCost {
  double step_ms = 12;
  double row_ms = 0.4;
  double position_ms = 0.00004;
  double noise = 0;  // part of a step's length, at random to both sides
};

class TimedRun {
 public:
  TimedRun(const SchedulerOptions& options, const DeviceCost& cost)
      : driver_(options), cost_(cost) {}

  uint64_t Add(SequenceRequest request) { return driver_.Add(std::move(request)); }

  // One step; false when there was nothing to do.
  bool Step() {
    const StepPlan plan = driver_.Step();
    if (plan.sequences.empty()) return false;
    double ms = cost_.step_ms;
    rows_ = 0;
    for (const PlanSequence& part : plan.sequences) {
      const double rows = static_cast<double>(part.ids.size());
      const double middle = static_cast<double>(part.first_position) + rows / 2;
      ms += rows * (cost_.row_ms + cost_.position_ms * middle);
      rows_ += static_cast<int64_t>(part.ids.size());
    }
    ms *= 1 + cost_.noise * (static_cast<double>(random_() % 2001) / 1000 - 1);
    driver_.now += absl::Milliseconds(ms);
    driver_.scheduler.StepTook(absl::Milliseconds(ms));
    for (const SequenceEvent& event : driver_.events) {
      if (event.ids.empty()) continue;
      auto [it, first] = last_token_.emplace(event.sequence, driver_.now);
      if (first) first_token_[event.sequence] = driver_.now;
      if (!first)
        gaps_[event.sequence].push_back(absl::ToDoubleMilliseconds(driver_.now - it->second));
      it->second = driver_.now;
    }
    return true;
  }

  // Steps until it has a token; the time of that.
  absl::Duration TimeToFirstToken(uint64_t id) {
    const absl::Time began = driver_.now;
    while (first_token_.count(id) == 0 && Step()) {
    }
    return first_token_[id] - began;
  }

  bool has_first_token(uint64_t id) const { return first_token_.count(id) > 0; }
  absl::Time first_token(uint64_t id) { return first_token_.at(id); }
  std::vector<double>& gaps(uint64_t id) { return gaps_[id]; }
  int64_t rows() const { return rows_; }
  absl::Time now() const { return driver_.now; }
  StepDriver& driver() { return driver_; }

 private:
  StepDriver driver_;
  const DeviceCost cost_;
  std::mt19937 random_{5};
  std::map<uint64_t, absl::Time> first_token_, last_token_;
  std::map<uint64_t, std::vector<double>> gaps_;
  int64_t rows_ = 0;
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

constexpr int kLongPrompt = 8192;

absl::Duration SoloTime(const DeviceCost& cost) {
  TimedRun alone(RoomyOptions(), cost);
  return alone.TimeToFirstToken(alone.Add(RequestOf(kLongPrompt, 4)));
}

struct Load {
  std::vector<double> gaps;  // between a chat's tokens while the long prompt is computed, ms
  double alone_ms = 0;       // the median before that
  double ratio = 0;          // of the long prompt's time to its first token to that alone
};

// Chats that decode, and one long prompt in the middle.
Load LongPromptBesideChats(const SchedulerOptions& options, const DeviceCost& cost, int chats) {
  TimedRun run(options, cost);
  uint64_t chat = 0;
  for (int i = 0; i < chats; ++i) chat = run.Add(RequestOf(100, 6000, 10000 + 1000 * i));
  while (run.driver().scheduler.queued_tokens() > 0) run.Step();
  run.gaps(chat).clear();
  for (int i = 0; i < 40; ++i) run.Step();
  Load load;
  load.alone_ms = Quantile(run.gaps(chat), 0.5);
  run.gaps(chat).clear();
  const absl::Duration took = run.TimeToFirstToken(run.Add(RequestOf(kLongPrompt, 4)));
  load.gaps = run.gaps(chat);
  load.ratio = absl::FDivDuration(took, SoloTime(cost));
  return load;
}

TEST(StepTime, ALongPromptAtMostDoublesTheStepsAndTakesTwiceItsTime) {
  for (int chats : {1, 8, 32}) {
    for (double noise : {0.0, 0.15}) {
      SCOPED_TRACE(testing::Message() << chats << " chats, noise " << noise);
      DeviceCost cost;
      cost.noise = noise;
      const Load load = LongPromptBesideChats(RoomyOptions(), cost, chats);
      const double target = 2 * load.alone_ms;
      EXPECT_LE(Quantile(load.gaps, 0.5), 1.05 * target);
      EXPECT_LE(Quantile(load.gaps, 0.9), (1.1 + noise) * target);
      EXPECT_LE(Quantile(load.gaps, 1), (1.3 + 2 * noise) * target);
      EXPECT_GE(Quantile(load.gaps, 0.5), 0.7 * target);  // and makes use of it
      EXPECT_LE(load.ratio, 2.5);
    }
  }
}

TEST(StepTime, AnExplicitTargetIsKept) {
  SchedulerOptions options = RoomyOptions();
  options.max_step = absl::Milliseconds(60);
  const Load load = LongPromptBesideChats(options, DeviceCost(), 8);
  EXPECT_LE(Quantile(load.gaps, 0.9), 1.05 * 60);
  EXPECT_GE(Quantile(load.gaps, 0.5), 0.8 * 60);
  // Without anybody decoding too: whoever comes waits for the end of the step.
  TimedRun run(options, DeviceCost());
  run.Add(RequestOf(kLongPrompt, 4));
  run.Step();  // nothing is known yet
  for (int i = 0; i < 50; ++i) {
    const absl::Time before = run.now();
    run.Step();
    EXPECT_LE(run.now() - before, absl::Milliseconds(60 * 1.2));
  }
}

TEST(StepTime, APromptGoesOnByABlockWhateverTheTargetIs) {
  SchedulerOptions options = RoomyOptions();
  options.max_step = absl::Microseconds(1);
  TimedRun run(options, DeviceCost());
  run.Add(RequestOf(100, 1000, 5000));
  for (int i = 0; i < 20; ++i) run.Step();
  run.Add(RequestOf(1000, 4));
  int steps_without = 0;
  for (int i = 0; i < 60; ++i) {
    run.Step();
    if (run.rows() == 1) ++steps_without;
    if (run.rows() > 1) {
      EXPECT_EQ(run.rows(), 17);
    }
  }
  EXPECT_LE(steps_without, 1);  // to measure
}

TEST(StepTime, WithoutAnythingThatDecodesAPromptTakesAllRows) {
  TimedRun run(RoomyOptions(), DeviceCost());
  run.Add(RequestOf(2048, 4));
  for (int i = 0; i < 4; ++i) {
    run.Step();
    EXPECT_EQ(run.rows(), 512);
  }
}

// A stream of short prompts meets a long one that is being computed, and a second one behind it.
TEST(Fairness, ShortPromptsDoNotWaitForLongOnesNorTheOtherWayRound) {
  const DeviceCost cost;
  TimedRun run(RoomyOptions(), cost);
  for (int i = 0; i < 8; ++i) run.Add(RequestOf(100, 8000, 10000 + 1000 * i));
  for (int i = 0; i < 100; ++i) run.Step();
  const absl::Time began = run.now();
  const uint64_t first = run.Add(RequestOf(kLongPrompt, 4));
  const uint64_t second = run.Add(RequestOf(kLongPrompt, 4, 20000));
  std::map<uint64_t, absl::Time> came;
  for (int i = 0; run.driver().scheduler.num_waiting() > 0 || i < 1000; ++i) {
    ASSERT_LT(i, 20000) << "starved";
    // Every 20th step a prompt that needs about six chunks: more than a quarter of the rows.
    if (i % 20 == 0) {
      came[run.Add(RequestOf(200, 1, 30000 + 10 * (i % 4000)))] = run.now();
    }
    run.Step();
  }
  run.TimeToFirstToken(second);
  int counted = 0;
  for (const auto& [id, time] : came) {
    if (!run.has_first_token(id)) continue;
    EXPECT_LE(run.first_token(id) - time, absl::Seconds(1));
    ++counted;
  }
  EXPECT_GE(counted, 50);
  const absl::Duration solo = SoloTime(cost);
  EXPECT_LE(run.first_token(first) - began, 5 * solo);
  EXPECT_LE(run.first_token(second) - began, 10 * solo);
  EXPECT_LT(run.first_token(first), run.first_token(second));
}

TEST(Fairness, WhatHasALowPriorityIsServedWhenItsTimeHasCome) {
  SchedulerOptions options = RoomyOptions();
  options.max_running = 2;
  options.priority_head_start = absl::Seconds(5);
  TimedRun run(options, DeviceCost());
  SequenceRequest low = RequestOf(50, 10, 50000);
  low.priority = -2;
  uint64_t waiting = 0;
  absl::Time came;
  // More work of priority 0 than can be done.
  for (int i = 0; run.now() < absl::UnixEpoch() + absl::Seconds(30); ++i) {
    if (run.driver().scheduler.num_waiting() < 20) run.Add(RequestOf(50, 10, 100 * (i % 400)));
    if (i == 100) {
      came = run.now();
      waiting = run.Add(low);
    }
    run.Step();
    for (const SequenceEvent& event : run.driver().events) {
      if (event.sequence != waiting || event.finish == FinishReason::kNone) continue;
      // Its turn comes 10 s after it did; then some of those before it are still to be done.
      EXPECT_GE(event.queue_time, absl::Seconds(9));
      EXPECT_LE(event.queue_time, absl::Seconds(13));
      return;
    }
  }
  FAIL() << "starved";
}

class DeadlineTest : public testing::Test {
 protected:
  absl::Status AddWithin(absl::Duration time, int priority = 0, int length = 100) {
    SequenceRequest request = RequestOf(length, 10, 70000);
    request.deadline = run_.now() + time;
    request.priority = priority;
    return run_.driver().scheduler.Add(std::move(request), run_.now()).status();
  }

  static SchedulerOptions Options() {
    SchedulerOptions options = RoomyOptions();
    options.max_running = 4;
    return options;
  }
  TimedRun run_{Options(), DeviceCost()};
};

TEST_F(DeadlineTest, WhatHasPassedIsRefusedAtOnce) {
  EXPECT_EQ(AddWithin(-absl::Seconds(1)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(AddWithin(absl::ZeroDuration()).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(run_.driver().scheduler.num_waiting(), 0);
}

TEST_F(DeadlineTest, NothingIsRefusedBeforeAnythingWasMeasured) {
  for (int i = 0; i < 20; ++i) run_.Add(RequestOf(8000, 10, 1000 * i));
  EXPECT_TRUE(AddWithin(absl::Microseconds(1)).ok());
}

TEST_F(DeadlineTest, WhatCannotStartBehindTheQueuedTokensIsRefusedWithTheNumbers) {
  run_.Add(RequestOf(2000, 4));
  for (int i = 0; i < 3; ++i) run_.Step();
  ASSERT_TRUE(AddWithin(absl::Seconds(1)).ok());  // 464 tokens of the first are left
  for (int i = 0; i < 2; ++i) run_.Add(RequestOf(8000, 4, 10000 * (i + 1)));
  const absl::Status refused = AddWithin(absl::Seconds(1), 0, 9000);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the deadline is in 1.000 s"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("16564 tokens and 4 sequences"));
  EXPECT_TRUE(refused.GetPayload(kDeadlineUnreachablePayload).has_value());
  EXPECT_TRUE(AddWithin(absl::Seconds(20), 0, 9000).ok());
  EXPECT_TRUE(AddWithin(absl::Seconds(1), 10, 9000).ok());  // goes before them
}

TEST_F(DeadlineTest, WhatPassesALongPromptIsNotRefusedForIt) {
  run_.Add(RequestOf(8000, 4));
  for (int i = 0; i < 3; ++i) run_.Step();
  run_.Add(RequestOf(8000, 4, 10000));
  // Six seconds of work are before it, but it is the shortest.
  SequenceRequest request = RequestOf(100, 10, 70000);
  request.deadline = run_.now() + absl::Seconds(1);
  const auto id = run_.driver().scheduler.Add(std::move(request), run_.now());
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_LT(run_.TimeToFirstToken(*id), absl::Seconds(1));
  EXPECT_EQ(AddWithin(absl::Seconds(1), 0, 9000).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(DeadlineTest, WhatCannotGetAPlaceInTheBatchIsRefused) {
  // 4 places, each taken for about 100 steps of 14 ms: one becomes free every 350 ms.
  for (int i = 0; i < 40; ++i) run_.Add(RequestOf(5, 100, 100 * i));
  for (int i = 0; i < 600; ++i) run_.Step();
  EXPECT_EQ(run_.driver().scheduler.num_waiting(), 16);
  EXPECT_EQ(AddWithin(absl::Seconds(2)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(AddWithin(absl::Seconds(12)).ok());
}

TEST_F(DeadlineTest, WhatAnotherReplicaHadAcceptedIsNotRefused) {
  for (int i = 0; i < 40; ++i) run_.Add(RequestOf(5, 100, 100 * i));
  for (int i = 0; i < 600; ++i) run_.Step();
  ASSERT_EQ(AddWithin(absl::Seconds(2)).code(), absl::StatusCode::kResourceExhausted);
  SequenceRequest request = RequestOf(100, 10, 70000);
  request.deadline = run_.now() + absl::Milliseconds(1);
  request.accepted_before = true;
  EXPECT_TRUE(run_.driver().scheduler.Add(request, run_.now()).ok());
  request.deadline = run_.now();
  EXPECT_EQ(run_.driver().scheduler.Add(request, run_.now()).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(WholePrompts, AreComputedInOneStepAlsoBesideDecoding) {
  SchedulerOptions options = RoomyOptions();
  options.whole_prompts = true;
  options.max_batch_tokens = 64;
  StepDriver driver(options);
  driver.Add(RequestOf(10, 100));
  driver.Step();
  driver.Add(RequestOf(64, 100));
  driver.Add(RequestOf(30, 100));
  EXPECT_THAT(driver.Step().sequences, SizeIs(1));  // no room for 64 beside the decoding one
  StepPlan plan = driver.Step();
  ASSERT_THAT(plan.sequences, SizeIs(1));  // so they get a step of their own
  EXPECT_THAT(plan.sequences[0].ids, SizeIs(64));
  plan = driver.Step();
  ASSERT_THAT(plan.sequences, SizeIs(3));
  EXPECT_THAT(plan.sequences[2].ids, SizeIs(30));
  // The second prompt begins like the third, and still was computed.
  EXPECT_EQ(plan.sequences[2].first_position, 0);
}

TEST(WholePrompts, APreemptedAnswerIsComputedAsItWas) {
  SchedulerOptions options = RoomyOptions();
  options.whole_prompts = true;
  options.max_batch_tokens = 32;
  options.max_model_len = 64;
  options.num_blocks = 5;
  StepDriver driver(options);
  driver.Add(RequestOf(20, 44));
  driver.Add(RequestOf(20, 20));
  bool computed_again = false;
  while (driver.scheduler.num_running() + driver.scheduler.num_waiting() > 0) {
    for (const PlanSequence& part : driver.Step().sequences) {
      EXPECT_EQ(part.ids.size(), part.first_position == 0 ? 20u : 1u);
      computed_again |= part.first_position >= 20 && !part.wants_logits;
    }
  }
  EXPECT_TRUE(computed_again);
}

TEST(WholePrompts, RefusesWhatItCannotDo) {
  SchedulerOptions options = RoomyOptions();
  options.whole_prompts = true;
  options.max_batch_tokens = 32;
  Scheduler scheduler(options);
  const absl::Status status = scheduler.Add(RequestOf(33, 1), absl::UnixEpoch()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("prompt_ids has 33 ids"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 32"));
  SequenceRequest resumed = RequestOf(3, 5);
  resumed.resumed_ids = {1};
  EXPECT_EQ(scheduler.Add(resumed, absl::UnixEpoch()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace qwenserve
