#include "engine/schedule/scheduler.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const absl::Time kStart = absl::UnixEpoch();

SchedulerOptions Options() {
  SchedulerOptions options;
  options.max_batch_tokens = 8;
  options.max_running = 4;
  options.max_waiting = 3;
  options.max_model_len = 64;
  options.num_blocks = 8;
  options.vocab_size = 100;
  options.eos_ids = {99};
  options.prefix_cache = false;  // the prompts here are all alike
  return options;
}

std::vector<SampledToken> Tokens(const std::vector<int32_t>& ids) {
  std::vector<SampledToken> tokens;
  for (int32_t id : ids) tokens.push_back({.id = id});
  return tokens;
}

SequenceRequest Request(int prompt, int max_tokens) {
  SequenceRequest request;
  request.prompt_ids.assign(prompt, 5);
  request.sampling.max_tokens = max_tokens;
  request.credit = 1000;
  return request;
}

class SchedulerTest : public testing::Test {
 protected:
  // One step that draws `id` for every sequence that wants a token.
  StepPlan Step(int32_t id = 7) {
    events_.clear();
    StepPlan plan = scheduler_.Schedule(now_, &events_);
    std::vector<int32_t> ids;
    for (const PlanSequence& part : plan.sequences) {
      if (part.wants_logits) ids.push_back(id);
    }
    if (!plan.sequences.empty()) scheduler_.Commit(plan, Tokens(ids), &events_);
    scheduler_.CheckIntegrity();
    return plan;
  }
  uint64_t Add(SequenceRequest request) {
    auto id = scheduler_.Add(std::move(request), now_);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }

  Scheduler scheduler_{Options()};
  absl::Time now_ = kStart;
  std::vector<SequenceEvent> events_;
};

TEST_F(SchedulerTest, RefusesBadRequestsByName) {
  const auto message = [&](SequenceRequest request) {
    const absl::Status status = scheduler_.Add(std::move(request), now_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message(Request(0, 1)), HasSubstr("prompt_ids"));
  EXPECT_THAT(message(Request(60, 5)), HasSubstr("prompt_ids (60) and max_tokens (5) exceed"));
  EXPECT_THAT(message(Request(1, 0)), HasSubstr("max_tokens"));
  SequenceRequest request = Request(2, 1);
  request.prompt_ids[1] = 100;
  EXPECT_THAT(message(request), HasSubstr("prompt_ids[1] is 100"));
  request = Request(2, 2);
  request.resumed_ids = {1, -1};
  EXPECT_THAT(message(request), HasSubstr("resumed_ids[1] is -1"));
  request.resumed_ids = {1, 1, 1};
  EXPECT_THAT(message(request), HasSubstr("resumed_ids has 3 ids"));
  request = Request(2, 2);
  request.priority = 1001;
  EXPECT_THAT(message(request), HasSubstr("priority is 1001, must be from -1000 to 1000"));
  request.priority = 0;
  request.credit = -1;
  EXPECT_THAT(message(request), HasSubstr("credit"));
  EXPECT_EQ(scheduler_.num_waiting(), 0);
}

TEST_F(SchedulerTest, RefusesBeyondMaxWaiting) {
  for (int i = 0; i < 3; ++i) Add(Request(1, 1));
  EXPECT_EQ(scheduler_.Add(Request(1, 1), now_).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(SchedulerTest, CutsAPrefillAndPutsDecodingFirst) {
  Add(Request(3, 10));
  StepPlan plan = Step();
  ASSERT_THAT(plan.sequences, SizeIs(1));
  EXPECT_TRUE(plan.sequences[0].wants_logits);

  Add(Request(17, 10));
  plan = Step();
  ASSERT_THAT(plan.sequences, SizeIs(2));
  EXPECT_THAT(plan.sequences[0].ids, ElementsAre(7));  // the decoding row
  EXPECT_EQ(plan.sequences[0].first_position, 3);
  EXPECT_THAT(plan.sequences[1].ids, SizeIs(7));  // what the budget of 8 leaves
  EXPECT_FALSE(plan.sequences[1].wants_logits);
  plan = Step();
  EXPECT_EQ(plan.sequences[1].first_position, 7);
  EXPECT_FALSE(plan.sequences[1].wants_logits);
  plan = Step();
  EXPECT_THAT(plan.sequences[1].ids, SizeIs(3));
  EXPECT_TRUE(plan.sequences[1].wants_logits);
  EXPECT_THAT(events_, SizeIs(2));
}

TEST_F(SchedulerTest, AdmitsResumedThenPriorityThenArrival) {
  SchedulerOptions options = Options();
  options.max_running = 1;
  options.max_waiting = 10;
  Scheduler scheduler(options);
  const uint64_t first = *scheduler.Add(Request(1, 1), now_);
  const uint64_t second = *scheduler.Add(Request(1, 1), now_);
  SequenceRequest urgent = Request(1, 1);
  urgent.priority = 1;
  const uint64_t third = *scheduler.Add(urgent, now_);
  SequenceRequest resumed = Request(1, 2);
  resumed.resumed_ids = {4};
  const uint64_t fourth = *scheduler.Add(resumed, now_);
  SequenceRequest again = Request(1, 1);  // lost its replica before its first token
  again.accepted_before = true;
  const uint64_t fifth = *scheduler.Add(again, now_);
  std::vector<uint64_t> finished;
  for (int i = 0; i < 5; ++i) {
    std::vector<SequenceEvent> events;
    const StepPlan plan = scheduler.Schedule(now_, &events);
    ASSERT_THAT(plan.sequences, SizeIs(1));
    scheduler.Commit(plan, Tokens({7}), &events);
    ASSERT_THAT(events, SizeIs(1));
    EXPECT_EQ(events[0].finish, FinishReason::kLength);
    finished.push_back(events[0].sequence);
  }
  EXPECT_THAT(finished, ElementsAre(fourth, fifth, third, first, second));
}

TEST_F(SchedulerTest, AResumedAnswerGoesOnAtItsIndex) {
  SequenceRequest request = Request(3, 4);
  request.resumed_ids = {1, 2, 3};
  Add(request);
  const StepPlan plan = Step();
  EXPECT_THAT(plan.sequences[0].ids, ElementsAre(5, 5, 5, 1, 2, 3));
  EXPECT_EQ(plan.sequences[0].prompt_tokens, 3);
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_EQ(events_[0].first_token_index, 3);
  EXPECT_THAT(events_[0].ids, ElementsAre(7));
  EXPECT_EQ(events_[0].finish, FinishReason::kLength);
}

TEST_F(SchedulerTest, AnAnswerThatWasCompleteEndsWithoutAStep) {
  SequenceRequest request = Request(3, 2);
  request.resumed_ids = {1, 2};
  Add(request);
  EXPECT_THAT(Step().sequences, IsEmpty());
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_EQ(events_[0].finish, FinishReason::kLength);
  EXPECT_THAT(events_[0].ids, IsEmpty());
}

TEST_F(SchedulerTest, TheEosIdEndsTheAnswerAndIsNotInIt) {
  Add(Request(3, 10));
  Step(7);
  Step(99);
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_EQ(events_[0].finish, FinishReason::kStop);
  EXPECT_EQ(events_[0].stop_token_id, 99);
  EXPECT_THAT(events_[0].ids, IsEmpty());
  EXPECT_EQ(scheduler_.free_blocks(), 8);
}

TEST_F(SchedulerTest, WithoutCreditASequenceWaitsAndKeepsItsBlocks) {
  SequenceRequest request = Request(3, 10);
  request.credit = 0;
  const uint64_t id = Add(request);
  EXPECT_THAT(Step().sequences, IsEmpty());
  scheduler_.AddCredit(id, 2);
  EXPECT_THAT(Step().sequences, SizeIs(1));
  EXPECT_THAT(Step().sequences, SizeIs(1));
  EXPECT_THAT(Step().sequences, IsEmpty());
  EXPECT_EQ(scheduler_.free_blocks(), 7);
  scheduler_.AddCredit(id, INT64_MAX);
  scheduler_.AddCredit(id, INT64_MAX);
  const StepPlan plan = Step();
  ASSERT_THAT(plan.sequences, SizeIs(1));
  EXPECT_EQ(plan.sequences[0].first_position, 4);  // nothing is computed twice
}

TEST_F(SchedulerTest, APausedSequenceGivesItsBlocksToOneThatCanRun) {
  SequenceRequest paused = Request(60, 4);
  paused.credit = 1;
  const uint64_t id = Add(paused);
  for (int i = 0; i < 8; ++i) Step();
  EXPECT_EQ(scheduler_.free_blocks(), 4);
  SequenceRequest big = Request(62, 2);
  Add(big);
  Step();  // four are free: enough
  SequenceRequest third = Request(30, 2);
  Add(third);
  for (int i = 0; i < 16; ++i) Step();
  EXPECT_EQ(scheduler_.num_running(), 0);
  EXPECT_EQ(scheduler_.num_waiting(), 1);
  EXPECT_EQ(scheduler_.counters().preemptions, 1);
  scheduler_.AddCredit(id, 10);
  const StepPlan plan = Step();
  EXPECT_EQ(plan.sequences[0].first_position, 0);  // computed again
}

TEST_F(SchedulerTest, TheLatestArrivedGivesWay) {
  SchedulerOptions options = Options();
  options.max_batch_tokens = 64;
  options.num_blocks = 4;
  Scheduler scheduler(options);
  Add(Request(1, 1));
  const uint64_t early = *scheduler.Add(Request(16, 40), now_);
  const uint64_t late = *scheduler.Add(Request(16, 40), now_);
  std::vector<uint64_t> order;
  bool waited = false;
  while (order.size() < 2) {
    std::vector<SequenceEvent> events;
    const StepPlan plan = scheduler.Schedule(now_, &events);
    waited |= scheduler.num_running() == 1 && scheduler.num_waiting() == 1;
    scheduler.Commit(plan, Tokens(std::vector<int32_t>(plan.sequences.size(), 7)), &events);
    for (const SequenceEvent& event : events) {
      if (event.finish != FinishReason::kNone) order.push_back(event.sequence);
    }
  }
  EXPECT_TRUE(waited);
  EXPECT_GT(scheduler.counters().preemptions, 0);
  EXPECT_THAT(order, ElementsAre(early, late));
}

TEST_F(SchedulerTest, ANewcomerLeavesEverybodyRoomForTheNextBlock) {
  SchedulerOptions options = Options();
  options.max_batch_tokens = 128;
  Scheduler scheduler(options);
  std::vector<SequenceEvent> events;
  ASSERT_TRUE(scheduler.Add(Request(60, 2), now_).ok());
  StepPlan plan = scheduler.Schedule(now_, &events);
  scheduler.Commit(plan, Tokens({7}), &events);
  ASSERT_TRUE(scheduler.Add(Request(60, 2), now_).ok());  // four blocks, and four are free
  plan = scheduler.Schedule(now_, &events);
  EXPECT_THAT(plan.sequences, SizeIs(1));
  scheduler.Commit(plan, Tokens({7}), &events);
  plan = scheduler.Schedule(now_, &events);  // the first has ended
  EXPECT_THAT(plan.sequences, SizeIs(1));
  EXPECT_EQ(plan.sequences[0].first_position, 0);
}

TEST_F(SchedulerTest, ACancelledSequenceIsGoneWithTheStepUnderWay) {
  const uint64_t id = Add(Request(3, 10));
  events_.clear();
  const StepPlan plan = scheduler_.Schedule(now_, &events_);
  scheduler_.Cancel(id);  // while the step runs
  scheduler_.Cancel(id);
  scheduler_.Commit(plan, Tokens({7}), &events_);
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_EQ(events_[0].finish, FinishReason::kCancelled);
  EXPECT_THAT(events_[0].ids, IsEmpty());
  EXPECT_EQ(scheduler_.free_blocks(), 8);
  scheduler_.Cancel(id);
  EXPECT_THAT(Step().sequences, IsEmpty());
  EXPECT_THAT(events_, IsEmpty());
}

TEST_F(SchedulerTest, TheDeadlineEndsAtWorkAndWaiting) {
  SequenceRequest request = Request(3, 10);
  request.deadline = kStart + absl::Seconds(2);
  Add(request);
  request.credit = 0;
  request.deadline = kStart + absl::Seconds(1);
  Add(request);
  Step();
  EXPECT_EQ(scheduler_.next_deadline(), kStart + absl::Seconds(1));
  now_ = kStart + absl::Seconds(1);
  EXPECT_THAT(Step().sequences, SizeIs(1));
  ASSERT_THAT(events_, SizeIs(2));
  EXPECT_EQ(events_[0].finish, FinishReason::kDeadline);
  EXPECT_EQ(events_[0].first_token_index, 0);
  EXPECT_EQ(events_[0].queue_time, absl::Seconds(1));
  now_ = kStart + absl::Seconds(2);
  EXPECT_THAT(Step().sequences, IsEmpty());
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_EQ(events_[0].first_token_index, 2);
  EXPECT_EQ(events_[0].queue_time, absl::ZeroDuration());
}

TEST_F(SchedulerTest, EveryEventTellsHowLongItsSequenceWaitedToBegin) {
  Add(Request(3, 10));
  now_ = kStart + absl::Seconds(3);
  for (int i = 0; i < 2; ++i) {
    Step();
    ASSERT_THAT(events_, SizeIs(1));
    EXPECT_EQ(events_[0].queue_time, absl::Seconds(3));
    now_ += absl::Seconds(1);
  }
}

TEST_F(SchedulerTest, ARowWithoutFiniteLogitsFailsAlone) {
  const uint64_t bad = Add(Request(3, 10));
  Add(Request(3, 10));
  events_.clear();
  const StepPlan plan = scheduler_.Schedule(now_, &events_);
  scheduler_.Commit(plan, Tokens({-1, 7}), &events_);
  ASSERT_THAT(events_, SizeIs(2));
  EXPECT_EQ(events_[0].sequence, bad);
  EXPECT_EQ(events_[0].finish, FinishReason::kNumeric);
  EXPECT_EQ(events_[0].error.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(events_[1].ids, ElementsAre(7));
}

TEST_F(SchedulerTest, FailAllEndsWhatRunsAndWhatWaits) {
  Add(Request(3, 10));
  Add(Request(30, 10));
  events_.clear();
  (void)scheduler_.Schedule(now_, &events_);
  scheduler_.FailAll(absl::UnavailableError("rank 1 died"), now_, &events_);
  ASSERT_THAT(events_, SizeIs(2));
  for (const SequenceEvent& event : events_) {
    EXPECT_EQ(event.finish, FinishReason::kError);
    EXPECT_EQ(event.error, absl::UnavailableError("rank 1 died"));
  }
  scheduler_.CheckIntegrity();
  EXPECT_EQ(scheduler_.free_blocks(), 8);
}

TEST_F(SchedulerTest, CountsWhatIsStillToBeComputed) {
  Add(Request(20, 10));
  EXPECT_EQ(scheduler_.queued_tokens(), 20);
  Step();
  EXPECT_EQ(scheduler_.queued_tokens(), 12);
  Step();
  Step();
  EXPECT_EQ(scheduler_.queued_tokens(), 0);
  EXPECT_EQ(scheduler_.counters().prompt_tokens, 20);
  EXPECT_EQ(scheduler_.counters().generated_tokens, 1);
}

}  // namespace
}  // namespace qwenserve
