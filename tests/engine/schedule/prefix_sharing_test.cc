// What sequences take from each other's KV blocks, and what they wait for.
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/schedule/step_driver.h"

namespace qwenserve {
namespace {

using ::testing::SizeIs;

// Runs one sequence to its end and tells how many prompt tokens it took from the cache.
int64_t CachedTokens(StepDriver& driver, SequenceRequest request) {
  const uint64_t id = driver.Add(std::move(request));
  while (true) {
    driver.Step();
    for (const SequenceEvent& event : driver.events) {
      if (event.sequence == id && event.finish != FinishReason::kNone) {
        return event.cached_prompt_tokens;
      }
    }
  }
}

TEST(PrefixSharing, FullBlocksAreTakenAndTheLastTokenIsAlwaysComputed) {
  StepDriver driver(RoomyOptions());
  EXPECT_EQ(CachedTokens(driver, RequestOf(48, 1)), 0);
  EXPECT_EQ(CachedTokens(driver, RequestOf(48, 1)), 32);
  EXPECT_EQ(CachedTokens(driver, RequestOf(49, 1)), 48);
  EXPECT_EQ(CachedTokens(driver, RequestOf(15, 1)), 0);
  EXPECT_EQ(CachedTokens(driver, RequestOf(48, 1, 1)), 0);
  const SchedulerCounters counters = driver.scheduler.counters();
  EXPECT_EQ(counters.queried_tokens, 48u + 48 + 49 + 15 + 48);
  EXPECT_EQ(counters.hit_tokens, 80u);
  EXPECT_EQ(counters.cached_prompt_tokens, 80u);
  EXPECT_EQ(counters.prompt_tokens, 48u + 16 + 1 + 15 + 48);
  EXPECT_EQ(driver.scheduler.cached_blocks(), 6);
  EXPECT_EQ(driver.scheduler.free_blocks(), driver.scheduler.total_blocks());
}

TEST(PrefixSharing, NothingIsSharedWhenTurnedOff) {
  SchedulerOptions options = RoomyOptions();
  options.prefix_cache = false;
  StepDriver driver(options);
  EXPECT_EQ(CachedTokens(driver, RequestOf(48, 1)), 0);
  EXPECT_EQ(CachedTokens(driver, RequestOf(48, 1)), 0);
  EXPECT_EQ(driver.scheduler.cached_blocks(), 0);
}

TEST(PrefixSharing, AnAnswerIsThereForTheNextTurnOfTheChat) {
  StepDriver driver(RoomyOptions());
  SequenceRequest request = RequestOf(20, 30);
  driver.Add(request);
  std::vector<int32_t> chat = request.prompt_ids;
  for (int i = 0; i < 30; ++i) {
    driver.Step();
    chat.insert(chat.end(), driver.events[0].ids.begin(), driver.events[0].ids.end());
  }
  ASSERT_THAT(chat, SizeIs(50));
  request.prompt_ids = chat;
  request.prompt_ids.push_back(7);
  EXPECT_EQ(CachedTokens(driver, request), 48);
  // The same when the answer was begun elsewhere. Only those of the prompt count as the prompt's.
  request = RequestOf(20, 31);
  request.resumed_ids.assign(chat.begin() + 20, chat.end());
  driver.Add(request);
  EXPECT_EQ(driver.Step().sequences[0].first_position, 48);
  EXPECT_EQ(driver.events[0].cached_prompt_tokens, 20);
}

TEST(PrefixSharing, TenantsAndRopeTablesDoNotMix) {
  SchedulerOptions options = RoomyOptions();
  options.rope_variant = [](int64_t prompt_tokens) { return prompt_tokens > 100 ? 1 : 0; };
  StepDriver driver(options);
  SequenceRequest request = RequestOf(100, 1);
  EXPECT_EQ(CachedTokens(driver, request), 0);
  request.cache_salt = "other";
  EXPECT_EQ(CachedTokens(driver, request), 0);
  EXPECT_EQ(CachedTokens(driver, request), 96);
  EXPECT_EQ(CachedTokens(driver, RequestOf(101, 1)), 0);
  EXPECT_EQ(CachedTokens(driver, RequestOf(110, 1)), 96);
}

TEST(PrefixSharing, APromptWhoseLogprobsAreAskedForIsComputed) {
  StepDriver driver(RoomyOptions());
  CachedTokens(driver, RequestOf(48, 1));
  SequenceRequest request = RequestOf(48, 1);
  request.sampling.num_prompt_logprobs = 0;
  EXPECT_EQ(CachedTokens(driver, request), 0);
  EXPECT_EQ(driver.scheduler.counters().queried_tokens, 48u);  // it did not ask
}

TEST(PrefixSharing, ABrokenSequenceLeavesNothingBehind) {
  StepDriver driver(RoomyOptions());
  driver.broken_draws = true;
  EXPECT_EQ(CachedTokens(driver, RequestOf(48, 1)), 0);
  EXPECT_EQ(driver.scheduler.cached_blocks(), 0);
  driver.broken_draws = false;
  EXPECT_EQ(CachedTokens(driver, RequestOf(48, 1)), 0);
}

TEST(PrefixSharing, SamplesOfOnePromptCostOnePrefill) {
  StepDriver driver(RoomyOptions());
  for (int i = 0; i < 4; ++i) {
    SequenceRequest request = RequestOf(40, 20);
    request.sample_index = i;
    driver.Add(request);
  }
  StepPlan plan = driver.Step();
  ASSERT_THAT(plan.sequences, SizeIs(1));  // the others wait for it
  EXPECT_THAT(plan.sequences[0].ids, SizeIs(40));
  plan = driver.Step();
  ASSERT_THAT(plan.sequences, SizeIs(4));
  for (int i = 1; i < 4; ++i) {
    const PlanSequence& part = plan.sequences[i];
    EXPECT_EQ(part.first_position, 32);
    EXPECT_THAT(part.ids, SizeIs(8));  // what does not fill a block each computes for itself
    EXPECT_EQ(part.blocks[0], plan.sequences[0].blocks[0]);
    EXPECT_EQ(part.blocks[1], plan.sequences[0].blocks[1]);
    EXPECT_NE(part.blocks[2], plan.sequences[0].blocks[2]);
  }
  EXPECT_EQ(driver.scheduler.counters().prompt_tokens, 40u + 3 * 8);
  EXPECT_EQ(driver.scheduler.total_blocks() - driver.scheduler.free_blocks(), 2 + 4);
}

TEST(PrefixSharing, FollowersWaitForTheCommonPartOnly) {
  SchedulerOptions options = RoomyOptions();
  options.max_batch_tokens = 64;
  StepDriver driver(options);
  driver.Add(RequestOf(200, 5));
  SequenceRequest follower = RequestOf(100, 5);
  for (size_t i = 70; i < 100; ++i) follower.prompt_ids[i] = 9000;
  driver.Add(follower);
  EXPECT_THAT(driver.Step().sequences, SizeIs(1));  // 64 of the leader's
  const StepPlan plan = driver.Step();              // the shorter one is first
  ASSERT_THAT(plan.sequences, SizeIs(2));
  EXPECT_EQ(plan.sequences[0].first_position, 64);
  EXPECT_THAT(plan.sequences[0].ids, SizeIs(36));
  EXPECT_EQ(plan.sequences[1].first_position, 64);
}

TEST(PrefixSharing, AStrangerOvertakesOneThatWaitsForAPrefix) {
  SchedulerOptions options = RoomyOptions();
  options.max_batch_tokens = 100;
  StepDriver driver(options);
  driver.Add(RequestOf(64, 5));
  driver.Add(RequestOf(64, 5));
  driver.Add(RequestOf(30, 5, 5000));
  const StepPlan plan = driver.Step();
  ASSERT_THAT(plan.sequences, SizeIs(2));
  EXPECT_EQ(plan.sequences[1].ids[0], 5000);
}

TEST(PrefixSharing, WhenTheLeaderGoesItsFollowerGoesOnFromThere) {
  SchedulerOptions options = RoomyOptions();
  options.max_batch_tokens = 64;
  StepDriver driver(options);
  const uint64_t leader = driver.Add(RequestOf(200, 5));
  const uint64_t follower = driver.Add(RequestOf(200, 5));
  driver.Step();
  driver.scheduler.Cancel(leader);
  const StepPlan plan = driver.Step();
  ASSERT_THAT(plan.sequences, SizeIs(1));
  EXPECT_EQ(plan.sequences[0].first_position, 64);
  while (driver.scheduler.num_running() > 0) driver.Step();
  EXPECT_EQ(driver.events[0].sequence, follower);
  EXPECT_EQ(driver.events[0].finish, FinishReason::kLength);
}

TEST(PrefixSharing, NobodyWaitsForAPrefillThatComesLater) {
  SchedulerOptions options = RoomyOptions();
  options.max_batch_tokens = 300;
  StepDriver driver(options);
  driver.Add(RequestOf(400, 5));
  driver.Step();
  SequenceRequest urgent = RequestOf(350, 5);
  urgent.priority = 1;
  driver.Add(urgent);
  const StepPlan plan = driver.Step();
  ASSERT_THAT(plan.sequences, SizeIs(2));
  EXPECT_EQ(plan.sequences[1].first_position, 288);
}

TEST(PrefixSharing, ASharedBlockIsNotCountedAsFreeTwice) {
  SchedulerOptions options = RoomyOptions();
  options.max_model_len = 128;
  options.num_blocks = 10;
  StepDriver driver(options);
  // Two paused sequences that share six of seven blocks: eight in all.
  std::vector<uint64_t> paused;
  for (int i = 0; i < 2; ++i) {
    SequenceRequest request = RequestOf(100, 20);
    request.credit = 1;
    paused.push_back(driver.Add(request));
  }
  driver.Step();
  driver.Step();
  EXPECT_EQ(driver.scheduler.free_blocks(), 2);
  driver.Add(RequestOf(120, 8, 5000));  // needs eight
  const StepPlan plan = driver.Step();
  ASSERT_THAT(plan.sequences, SizeIs(1));
  EXPECT_EQ(driver.scheduler.counters().preemptions, 2u);
  for (uint64_t id : paused) driver.scheduler.AddCredit(id, 100);
  while (driver.scheduler.num_running() > 0) driver.Step();
  EXPECT_EQ(driver.scheduler.free_blocks(), 10);
}

}  // namespace
}  // namespace qwenserve
