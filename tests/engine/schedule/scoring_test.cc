// What the scheduler asks for, and hands on, for log-probabilities and for min_tokens.
#include <vector>

#include "engine/schedule/scheduler.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

SchedulerOptions ScoringOptions() {
  SchedulerOptions options;
  options.max_batch_tokens = 8;
  options.max_running = 4;
  options.max_waiting = 8;
  options.max_model_len = 64;
  options.num_blocks = 5;
  options.vocab_size = 100;
  options.eos_ids = {99};
  return options;
}

class ScoringTest : public testing::Test {
 protected:
  // A prompt of ids 10, 11, ...
  static SequenceRequest Request(int prompt, int max_tokens) {
    SequenceRequest request;
    for (int i = 0; i < prompt; ++i) request.prompt_ids.push_back(10 + i);
    request.sampling.max_tokens = max_tokens;
    request.credit = 1000;
    return request;
  }

  uint64_t Add(SequenceRequest request) {
    auto id = scheduler_.Add(std::move(request), now_);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  }

  // What a device would answer: the token that follows each scored row, and 7 for each draw.
  static std::vector<SampledToken> Answer(const StepPlan& plan) {
    std::vector<SampledToken> tokens;
    for (const PlanSequence& part : plan.sequences) {
      for (int32_t i = 0; i < part.num_scored; ++i) {
        const size_t next = part.first_scored + i + 1;
        const int32_t id = next < part.ids.size() ? part.ids[next] : part.next_id;
        tokens.push_back({.id = id, .logprob = -0.5f * static_cast<float>(id)});
      }
      if (part.wants_logits) tokens.push_back({.id = 7, .logprob = -1.5f, .top = {{7, -1.5f}}});
    }
    return tokens;
  }

  StepPlan Step() {
    events_.clear();
    const StepPlan plan = scheduler_.Schedule(now_, &events_);
    if (!plan.sequences.empty()) scheduler_.Commit(plan, Answer(plan), &events_);
    scheduler_.CheckIntegrity();
    for (const SequenceEvent& event : events_) {
      if (event.prompt_logprobs.empty()) continue;
      EXPECT_EQ(event.first_prompt_index, 1 + static_cast<int64_t>(scored_.size()));
      for (const SampledToken& token : event.prompt_logprobs) scored_.push_back(token.id);
    }
    return plan;
  }

  Scheduler scheduler_{ScoringOptions()};
  absl::Time now_ = absl::UnixEpoch();
  std::vector<SequenceEvent> events_;
  std::vector<int32_t> scored_;
};

TEST_F(ScoringTest, EveryPromptTokenAfterTheFirstIsScoredOnceOverChunks) {
  SequenceRequest request = Request(19, 3);
  request.sampling.num_prompt_logprobs = 2;
  Add(std::move(request));
  StepPlan plan = Step();
  EXPECT_EQ(plan.sequences[0].num_scored, 8);
  EXPECT_EQ(plan.sequences[0].next_id, 18);
  EXPECT_EQ(plan.sequences[0].score_top, 2);
  EXPECT_FALSE(plan.sequences[0].wants_logits);
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_THAT(events_[0].ids, IsEmpty());
  EXPECT_EQ(events_[0].prompt_logprobs[3].logprob, -7.0f);
  Step();
  plan = Step();
  EXPECT_EQ(plan.sequences[0].num_scored, 2);  // the third row draws
  EXPECT_TRUE(plan.sequences[0].wants_logits);
  plan = Step();
  EXPECT_EQ(plan.sequences[0].num_scored, 0);
  EXPECT_THAT(scored_,
              ElementsAre(11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28));
}

TEST_F(ScoringTest, APromptOfOneTokenHasNothingToScore) {
  SequenceRequest request = Request(1, 3);
  request.sampling.num_prompt_logprobs = 0;
  Add(std::move(request));
  EXPECT_EQ(Step().sequences[0].num_scored, 0);
}

TEST_F(ScoringTest, ComputedAgainAfterAPreemptionNothingIsScoredTwice) {
  // Both decode and want the last blocks; the scored one has to give way and starts over.
  Add(Request(30, 34));
  SequenceRequest request = Request(30, 34);
  request.sampling.num_prompt_logprobs = 0;
  Add(std::move(request));
  for (int i = 0; i < 300 && scheduler_.num_running() + scheduler_.num_waiting() > 0; ++i) Step();
  EXPECT_GT(scheduler_.counters().preemptions, 0);
  EXPECT_THAT(scored_, SizeIs(29));
}

TEST_F(ScoringTest, AnUnusableScoreFailsThatSequenceOnly) {
  SequenceRequest request = Request(4, 3);
  request.sampling.num_prompt_logprobs = 0;
  const uint64_t bad = Add(std::move(request));
  Add(Request(3, 3));
  const StepPlan plan = scheduler_.Schedule(now_, &events_);
  std::vector<SampledToken> tokens = Answer(plan);
  tokens[1].id = -1;
  scheduler_.Commit(plan, tokens, &events_);
  scheduler_.CheckIntegrity();
  ASSERT_THAT(events_, SizeIs(2));
  EXPECT_EQ(events_[0].sequence, bad);
  EXPECT_EQ(events_[0].finish, FinishReason::kNumeric);
  EXPECT_THAT(events_[0].prompt_logprobs, SizeIs(1));
  EXPECT_THAT(events_[1].ids, ElementsAre(7));
}

TEST_F(ScoringTest, TheAnswersLogprobsAreHandedOnOnlyWhenAskedFor) {
  Add(Request(2, 3));
  Step();
  EXPECT_THAT(events_[0].logprobs, IsEmpty());
  SequenceRequest request = Request(2, 3);
  request.sampling.num_logprobs = 1;
  Add(std::move(request));
  const StepPlan plan = Step();
  EXPECT_EQ(plan.sequences[1].sample.num_logprobs, 1);
  ASSERT_THAT(events_[1].logprobs, SizeIs(1));
  EXPECT_EQ(events_[1].logprobs[0].logprob, -1.5f);
  EXPECT_THAT(events_[1].logprobs[0].top, SizeIs(1));
}

TEST_F(ScoringTest, TheEndIsBannedBeforeMinTokensAndCountsResumedOnes) {
  SequenceRequest request = Request(2, 9);
  request.sampling.min_tokens = 3;
  request.sampling.stop_token_ids = {50};
  request.resumed_ids = {7};
  Add(std::move(request));
  EXPECT_THAT(Step().sequences[0].sample.banned_ids, ElementsAre(50, 99));
  EXPECT_THAT(Step().sequences[0].sample.banned_ids, ElementsAre(50, 99));
  EXPECT_THAT(Step().sequences[0].sample.banned_ids, IsEmpty());
}

TEST_F(ScoringTest, ImpossibleParametersAreRefusedAtTheDoor) {
  const auto refused = [&](auto spoil) {
    SequenceRequest request = Request(2, 9);
    spoil(request);
    return scheduler_.Add(std::move(request), now_).status().code() ==
           absl::StatusCode::kInvalidArgument;
  };
  EXPECT_FALSE(refused([](SequenceRequest&) {}));
  EXPECT_TRUE(refused([](SequenceRequest& r) { r.sampling.min_tokens = 10; }));
  EXPECT_TRUE(refused([](SequenceRequest& r) { r.sampling.num_logprobs = 21; }));
  EXPECT_TRUE(refused([](SequenceRequest& r) { r.sampling.num_prompt_logprobs = -2; }));
  EXPECT_TRUE(refused([](SequenceRequest& r) { r.sampling.stop_token_ids = {100}; }));
  EXPECT_TRUE(refused([](SequenceRequest& r) { r.sampling.logit_bias = {{100, 1}}; }));
  EXPECT_TRUE(refused([](SequenceRequest& r) { r.sampling.logit_bias = {{2, 1}, {1, 1}}; }));
  EXPECT_TRUE(refused([](SequenceRequest& r) { r.sample_index = -1; }));
}

}  // namespace
}  // namespace qwenserve
