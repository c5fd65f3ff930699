// Steps that are planned while the one before is under way.
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/schedule/step_driver.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int32_t kEos = 7;

SchedulerOptions RunAheadOptions() {
  SchedulerOptions options = RoomyOptions();
  options.run_ahead = true;
  options.eos_ids = {kEos};
  return options;
}

class RunAheadTest : public testing::Test {
 protected:
  uint64_t Add(SequenceRequest request) {
    auto id = scheduler_->Add(std::move(request), absl::UnixEpoch());
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }
  StepPlan Schedule() {
    events_.clear();
    StepPlan plan = scheduler_->Schedule(absl::UnixEpoch(), &events_);
    scheduler_->CheckIntegrity();
    return plan;
  }
  // What the step drew, in the plan's order.
  void Commit(const StepPlan& plan, const std::vector<int32_t>& ids) {
    std::vector<SampledToken> tokens;
    for (int32_t id : ids) tokens.push_back({.id = id});
    events_.clear();
    scheduler_->Commit(plan, tokens, &events_);
    scheduler_->CheckIntegrity();
  }
  void Restart(const SchedulerOptions& options) {
    scheduler_ = std::make_unique<Scheduler>(options);
  }

  std::unique_ptr<Scheduler> scheduler_ = std::make_unique<Scheduler>(RunAheadOptions());
  std::vector<SequenceEvent> events_;
};

TEST_F(RunAheadTest, TheNextStepTakesWhatThisOneDraws) {
  SchedulerOptions options = RunAheadOptions();
  options.max_batch_tokens = 40;
  Restart(options);
  Add(RequestOf(15, 10, 100));
  const StepPlan first = Schedule();
  Add(RequestOf(60, 10, 1000));
  Add(RequestOf(3, 10, 2000));
  const StepPlan second = Schedule();  // a row, part of a prompt, and a whole one
  ASSERT_THAT(second.sequences, SizeIs(3));
  EXPECT_EQ(second.sequences[0].sampled_by_row, 0);
  EXPECT_THAT(second.sequences[0].ids, SizeIs(1));
  EXPECT_EQ(second.sequences[0].first_position, 15);
  EXPECT_EQ(second.sequences[0].sample.position, 16);
  EXPECT_THAT(second.sequences[0].blocks, SizeIs(1));
  EXPECT_FALSE(second.sequences[1].wants_logits);
  EXPECT_TRUE(second.sequences[2].wants_logits);
  Commit(first, {501});
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_THAT(events_[0].ids, ElementsAre(501));
  const StepPlan third = Schedule();
  ASSERT_THAT(third.sequences, SizeIs(3));
  EXPECT_EQ(third.sequences[0].sampled_by_row, 0);
  EXPECT_THAT(third.sequences[0].blocks, SizeIs(2));  // the position of a token to come
  EXPECT_EQ(third.sequences[1].sampled_by_row, 1);    // counted among those that draw
  EXPECT_EQ(third.sequences[1].first_position, 3);
  EXPECT_EQ(third.sequences[2].sampled_by_row, -1);
  EXPECT_TRUE(third.sequences[2].wants_logits);
  Commit(second, {502, 701});
  Commit(third, {503, 702, 601});
  // Known by now, and so not asked of the device.
  const StepPlan fourth = Schedule();
  EXPECT_EQ(fourth.sequences[0].sampled_by_row, -1);
  EXPECT_THAT(fourth.sequences[0].ids, ElementsAre(503));
}

TEST_F(RunAheadTest, EndsThatAreKnownBeforehandCostNoRow) {
  Add(RequestOf(3, 2, 10));
  SequenceRequest paused = RequestOf(3, 10, 20);
  paused.credit = 2;
  const uint64_t id = Add(paused);
  const StepPlan first = Schedule();
  const StepPlan second = Schedule();
  EXPECT_THAT(second.sequences, SizeIs(2));
  Commit(first, {500, 600});
  EXPECT_THAT(Schedule().sequences, IsEmpty());  // max_tokens, and credit
  Commit(second, {501, 601});
  ASSERT_THAT(events_, SizeIs(2));
  EXPECT_EQ(events_[0].finish, FinishReason::kLength);
  EXPECT_EQ(events_[1].finish, FinishReason::kNone);
  EXPECT_EQ(scheduler_->num_running(), 0);
  EXPECT_EQ(scheduler_->counters().surplus_tokens, 0);
  scheduler_->AddCredit(id, 1);
  EXPECT_THAT(Schedule().sequences, SizeIs(1));
}

TEST_F(RunAheadTest, ThePlaceOfALastTokenIsTakenBeforeItIsThere) {
  SchedulerOptions options = RunAheadOptions();
  options.max_running = 2;
  Restart(options);
  for (int i = 0; i < 3; ++i) Add(RequestOf(5, 1, 100 * i));
  SequenceRequest paused = RequestOf(5, 10, 900);
  paused.credit = 1;
  const uint64_t id = Add(paused);
  const StepPlan first = Schedule();
  EXPECT_THAT(first.sequences, SizeIs(2));
  const StepPlan second = Schedule();
  EXPECT_THAT(second.sequences, SizeIs(2));
  EXPECT_EQ(second.sequences[1].sample.context_ids[0], 900);
  Commit(first, {501, 502});
  // More credit may still come for the one that has none left: its place is not free.
  Add(RequestOf(5, 1, 700));
  Add(RequestOf(5, 1, 800));
  const StepPlan third = Schedule();
  EXPECT_THAT(third.sequences, SizeIs(1));
  scheduler_->AddCredit(id, 5);
  Commit(second, {503, 504});
  EXPECT_EQ(scheduler_->num_running(), 2);
  const StepPlan fourth = Schedule();
  EXPECT_THAT(fourth.sequences, SizeIs(2));
}

TEST_F(RunAheadTest, ATokenBehindTheEndIsDropped) {
  const int64_t free = scheduler_->free_blocks();
  Add(RequestOf(16, 10, 10));
  Add(RequestOf(3, 10, 40));
  const StepPlan first = Schedule();
  const StepPlan second = Schedule();
  Commit(first, {kEos, 600});
  ASSERT_THAT(events_, SizeIs(2));
  EXPECT_EQ(events_[0].finish, FinishReason::kStop);
  EXPECT_EQ(scheduler_->free_blocks(), free - 1);  // at once
  const StepPlan third = Schedule();
  EXPECT_THAT(third.sequences, SizeIs(1));
  Commit(second, {700, 601});
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_THAT(events_[0].ids, ElementsAre(601));
  EXPECT_EQ(scheduler_->counters().surplus_tokens, 1);
  EXPECT_EQ(scheduler_->counters().generated_tokens, 3);
}

TEST_F(RunAheadTest, ACancelEndsAtOnceWithTwoStepsUnderWay) {
  const int64_t free = scheduler_->free_blocks();
  const uint64_t id = Add(RequestOf(3, 10));
  const StepPlan first = Schedule();
  const StepPlan second = Schedule();
  scheduler_->Cancel(id);
  Commit(first, {500});
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_EQ(events_[0].finish, FinishReason::kCancelled);
  EXPECT_THAT(events_[0].ids, IsEmpty());
  EXPECT_EQ(scheduler_->free_blocks(), free);
  EXPECT_THAT(Schedule().sequences, IsEmpty());
  Commit(second, {501});
  EXPECT_THAT(events_, IsEmpty());
}

TEST_F(RunAheadTest, PenaltiesNeedTheLastTokenOrADeviceThatAddsIt) {
  SequenceRequest penalised = RequestOf(3, 10, 10);
  penalised.sampling.frequency_penalty = 0.5f;
  Add(RequestOf(3, 10, 20));
  Add(penalised);
  const StepPlan first = Schedule();
  EXPECT_THAT(Schedule().sequences, IsEmpty());  // nobody is left behind
  Commit(first, {500, 600});
  const StepPlan second = Schedule();
  EXPECT_THAT(second.sequences, SizeIs(2));
  EXPECT_EQ(second.sequences[1].sampled_by_row, -1);

  SchedulerOptions options = RunAheadOptions();
  options.reads_last_id = true;
  Restart(options);
  Add(penalised);
  Schedule();
  const StepPlan ahead = Schedule();
  ASSERT_THAT(ahead.sequences, SizeIs(1));
  EXPECT_EQ(ahead.sequences[0].sampled_by_row, 0);
  EXPECT_THAT(ahead.sequences[0].sample.context_ids, SizeIs(3));
  EXPECT_EQ(ahead.sequences[0].sample.position, 4);
}

TEST_F(RunAheadTest, MinTokensCountTokensNotKnown) {
  SequenceRequest request = RequestOf(3, 10, 10);
  request.sampling.min_tokens = 2;
  Add(request);
  const StepPlan first = Schedule();
  EXPECT_THAT(first.sequences[0].sample.banned_ids, ElementsAre(kEos));
  const StepPlan second = Schedule();
  EXPECT_THAT(second.sequences[0].sample.banned_ids, ElementsAre(kEos));
  Commit(first, {500});
  EXPECT_THAT(Schedule().sequences[0].sample.banned_ids, IsEmpty());
}

TEST_F(RunAheadTest, WhoLosesItsBlocksKeepsWhatIsBeingDrawn) {
  SchedulerOptions options = RunAheadOptions();
  options.max_model_len = 64;
  options.num_blocks = 4;
  options.prefix_cache = false;
  Restart(options);
  Add(RequestOf(30, 20, 100));
  StepPlan last = Schedule();
  Add(RequestOf(14, 20, 300));
  int32_t id = 500;
  for (int64_t position = 30; position <= 32; ++position) {
    const StepPlan plan = Schedule();
    ASSERT_THAT(plan.sequences, SizeIs(2));
    EXPECT_EQ(plan.sequences[0].first_position, position);
    std::vector<int32_t> ids(last.sequences.size(), id++);
    Commit(last, ids);
    last = plan;
  }
  EXPECT_EQ(scheduler_->free_blocks(), 0);
  // The second one would need a block for position 16.
  const StepPlan alone = Schedule();
  ASSERT_THAT(alone.sequences, SizeIs(1));
  EXPECT_EQ(alone.sequences[0].first_position, 33);
  EXPECT_EQ(scheduler_->counters().preemptions, 1);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  Commit(last, {600, 601});
  ASSERT_THAT(events_, SizeIs(2));
  EXPECT_THAT(events_[1].ids, ElementsAre(601));
  EXPECT_EQ(events_[1].first_token_index, 2);
}

}  // namespace
}  // namespace qwenserve
