#include "services/generator/sim_replica.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/services/generator/sim_harness.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::vector<int32_t> Prompt(int length, int32_t first = 100) {
  std::vector<int32_t> ids(length);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

SequenceRequest Sampled(int64_t max_tokens) {
  SequenceRequest request = SimDriver::Request(Prompt(40), max_tokens);
  request.sampling.temperature = 0.7f;
  request.sampling.seed = 11;
  request.sampling.presence_penalty = 0.5f;
  request.sampling.logit_bias = {{5, 1.5f}};
  request.sampling.num_logprobs = 3;
  return request;
}

std::vector<int32_t> Tail(const std::vector<int32_t>& ids, size_t from) {
  return std::vector<int32_t>(ids.begin() + from, ids.end());
}

TEST(SimReplicaTest, AnAnswerResumedAnywhereGoesOnWithTheSameTokensAndLogprobs) {
  const SimAnswer whole = SimDriver().Answer(Sampled(30));
  ASSERT_THAT(whole.ids, SizeIs(30));
  for (size_t known = 1; known < 30; ++known) {
    SequenceRequest request = Sampled(30);
    request.resumed_ids.assign(whole.ids.begin(), whole.ids.begin() + known);
    const SimAnswer rest = SimDriver().Answer(request);
    EXPECT_EQ(rest.ids, Tail(whole.ids, known));
    ASSERT_THAT(rest.logprobs, SizeIs(30 - known));
    EXPECT_EQ(rest.logprobs.back().logprob, whole.logprobs.back().logprob);
    EXPECT_EQ(rest.last.finish, FinishReason::kLength);
  }
}

TEST(SimReplicaTest, ATokenLostDoubledOrChangedChangesWhatFollows) {
  const SimAnswer whole = SimDriver().Answer(Sampled(30));
  const std::vector<int32_t> first(whole.ids.begin(), whole.ids.begin() + 10);
  std::vector<std::vector<int32_t>> wrong(3, first);
  wrong[0].erase(wrong[0].begin() + 4);
  wrong[1].insert(wrong[1].begin() + 4, wrong[1][4]);
  wrong[2][4] ^= 1;
  for (const std::vector<int32_t>& resumed : wrong) {
    SequenceRequest request = Sampled(30);
    request.resumed_ids = resumed;
    const SimAnswer rest = SimDriver().Answer(request);
    EXPECT_NE(rest.ids.back(), whole.ids.back());
    EXPECT_NE(Tail(rest.ids, 10), Tail(whole.ids, resumed.size() + 10));
  }
}

TEST(SimReplicaTest, EveryParameterOfADrawChangesTheTokens) {
  std::vector<SequenceRequest> requests(9, Sampled(20));
  requests[1].sampling.seed = 12;
  requests[2].sample_index = 1;
  requests[3].sampling.presence_penalty = 0.25f;
  requests[4].sampling.logit_bias[0].bias = 1.25f;
  requests[5].sampling.top_p = 0.5f;
  requests[6].sampling.temperature = 0.5f;
  requests[7].sampling.repetition_penalty = 1.5f;
  requests[8].prompt_ids.back() += 1;
  std::set<std::vector<int32_t>> answers;
  for (const SequenceRequest& request : requests) {
    answers.insert(SimDriver().Answer(request).ids);
  }
  EXPECT_THAT(answers, SizeIs(requests.size()));
}

TEST(SimReplicaTest, GreedyDrawsLeaveOutWhatOnlyShapesADistribution) {
  SequenceRequest request = Sampled(20);
  request.sampling.temperature = 0;
  const SimAnswer greedy = SimDriver().Answer(request);
  request.sampling.seed = 12;
  request.sampling.top_k = 5;
  request.sample_index = 3;
  EXPECT_EQ(SimDriver().Answer(request).ids, greedy.ids);
  request.sampling.presence_penalty = 0.25f;
  EXPECT_NE(SimDriver().Answer(request).ids, greedy.ids);
}

TEST(SimReplicaTest, TokensDoNotDependOnWhatElseRunsOrOnPreemption) {
  const SimAnswer alone = SimDriver().Answer(Sampled(60));
  SimReplicaOptions options = SimDriver::DefaultOptions();
  options.scheduler.max_model_len = 128;
  options.scheduler.num_blocks = 16;  // 8 sequences want 7 blocks each
  SimDriver driver(options);
  std::vector<uint64_t> handles;
  for (int i = 0; i < 8; ++i) {
    SequenceRequest request = Sampled(60);
    if (i != 7) request.prompt_ids = Prompt(40, 200 + 100 * i);
    handles.push_back(*driver.Submit(request));
  }
  driver.RunUntilIdle();
  EXPECT_GT(driver.replica.Stats(driver.now).counters.preemptions, 0u);
  EXPECT_EQ(driver.answers[handles[7]].ids, alone.ids);
}

TEST(SimReplicaTest, AnotherFingerprintGivesOtherTokens) {
  SimReplicaOptions options = SimDriver::DefaultOptions();
  options.scheduler.fingerprint = "sim-other";
  EXPECT_NE(SimDriver(options).Answer(Sampled(20)).ids, SimDriver().Answer(Sampled(20)).ids);
}

TEST(SimReplicaTest, AnswersAreWords) {
  for (const int32_t id : SimDriver().Answer(Sampled(200)).ids) {
    const absl::string_view bytes = DemoTokenizer()->TokenBytes(id);
    EXPECT_EQ(bytes[0], ' ');
    EXPECT_TRUE(absl::c_all_of(bytes.substr(1), absl::ascii_islower)) << bytes;
  }
}

TEST(SimReplicaTest, AnswersEndByChanceButNotBeforeMinTokens) {
  SimReplicaOptions options = SimDriver::DefaultOptions();
  options.mean_tokens = 20;
  double sum = 0;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    SequenceRequest request = Sampled(1000);
    request.sampling.ignore_eos = false;
    request.sampling.seed = seed;
    const SimAnswer answer = SimDriver(options).Answer(request);
    EXPECT_EQ(answer.last.finish, FinishReason::kStop);
    EXPECT_EQ(answer.last.stop_token_id, SimDriver::kEos);
    sum += static_cast<double>(answer.ids.size());
    if (seed > 20) continue;
    request.sampling.min_tokens = 100;
    EXPECT_GE(SimDriver(options).Answer(request).ids.size(), 100u);
  }
  EXPECT_NEAR(sum / 400, 19, 4);  // four standard errors
}

TEST(SimReplicaTest, StopTokensAndBiasesAreObeyed) {
  const SimAnswer plain = SimDriver().Answer(Sampled(20));
  SequenceRequest request = Sampled(20);
  request.sampling.stop_token_ids = {plain.ids[7]};
  const SimAnswer stopped = SimDriver().Answer(request);
  EXPECT_EQ(stopped.last.stop_token_id, plain.ids[7]);
  EXPECT_LE(stopped.ids.size(), 7u);
  request = Sampled(20);
  request.sampling.logit_bias = {{77, 100.0f}};
  EXPECT_THAT(SimDriver().Answer(request).ids, testing::Each(77));
  request.sampling.logit_bias = {{plain.ids[0], -100.0f}};
  EXPECT_THAT(SimDriver().Answer(request).ids, testing::Not(testing::Contains(plain.ids[0])));
}

TEST(SimReplicaTest, LogprobsAreThoseOfADistribution) {
  SequenceRequest request = Sampled(10);
  request.sampling.num_prompt_logprobs = 2;
  const SimAnswer answer = SimDriver().Answer(request);
  ASSERT_THAT(answer.logprobs, SizeIs(10));
  ASSERT_THAT(answer.prompt_logprobs, SizeIs(39));
  EXPECT_EQ(answer.prompt_logprobs.front().id, 101);
  for (const SampledToken& token : answer.logprobs) {
    ASSERT_THAT(token.top, SizeIs(3));
    EXPECT_EQ(token.top[0].id, token.id);
    double sum = 0;
    std::set<int32_t> ids;
    for (size_t i = 0; i < token.top.size(); ++i) {
      sum += std::exp(token.top[i].logprob);
      ids.insert(token.top[i].id);
      if (i > 0) EXPECT_LT(token.top[i].logprob, token.top[i - 1].logprob);
    }
    EXPECT_LT(sum, 1.0);
    EXPECT_THAT(ids, SizeIs(3));
  }
}

TEST(SimReplicaTest, StepsTakeWhatTheTimingSays) {
  SimReplicaOptions options = SimDriver::DefaultOptions();
  options.timing = {absl::Milliseconds(10), absl::Milliseconds(1), 1000};
  SimDriver driver(options);
  const uint64_t one = *driver.Submit(SimDriver::Request(Prompt(40), 5));
  const uint64_t two = *driver.Submit(SimDriver::Request(Prompt(20, 900), 5));
  ASSERT_TRUE(driver.Step());
  EXPECT_EQ(driver.last_step, absl::Milliseconds(10 + 2 + 60));
  ASSERT_TRUE(driver.Step());
  EXPECT_EQ(driver.last_step, absl::Milliseconds(10 + 2));
  driver.RunUntilIdle();
  EXPECT_THAT(driver.answers[one].ids, SizeIs(5));
  EXPECT_THAT(driver.answers[two].ids, SizeIs(5));
}

TEST(SimReplicaTest, ALongPromptIsComputedInParts) {
  SimReplicaOptions options = SimDriver::DefaultOptions();
  options.timing = {absl::ZeroDuration(), absl::ZeroDuration(), 1000};
  options.scheduler.max_batch_tokens = 256;
  SimDriver driver(options);
  const absl::Time begin = driver.now;
  const SimAnswer answer = driver.Answer(SimDriver::Request(Prompt(1000), 2));
  EXPECT_EQ(answer.first_at - begin, absl::Seconds(1));
  EXPECT_GE(driver.replica.Stats(driver.now).step, 4u);
}

TEST(SimReplicaTest, LongPromptsBesideChatsAtMostDoubleTheTimeBetweenTokens) {
  SimReplicaOptions options = SimDriver::DefaultOptions();
  options.timing = {absl::Milliseconds(20), absl::ZeroDuration(), 20000};
  options.scheduler.max_batch_tokens = 2048;
  options.scheduler.num_blocks = 8192;
  SimDriver driver(options);
  std::vector<uint64_t> chats;
  for (int i = 0; i < 8; ++i) {
    chats.push_back(*driver.Submit(SimDriver::Request(Prompt(20, 100 * i + 1), 500)));
  }
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(driver.Step());
  const absl::Duration alone = driver.last_step;
  std::vector<uint64_t> prompts;
  std::vector<absl::Duration> gaps;
  while (!driver.answers[chats[0]].ended()) {
    // Always one of the greatest length to be computed, and others behind it.
    while (prompts.size() < 4 || driver.answers[prompts[prompts.size() - 4]].ended()) {
      SequenceRequest request = SimDriver::Request(Prompt(2040), 2);
      request.cache_salt = std::to_string(prompts.size());
      prompts.push_back(*driver.Submit(std::move(request)));
    }
    const size_t before = driver.answers[chats[0]].ids.size();
    ASSERT_TRUE(driver.Step());
    if (driver.answers[chats[0]].ended()) break;
    ASSERT_EQ(driver.answers[chats[0]].ids.size(), before + 1) << "every step has the chats in it";
    gaps.push_back(driver.last_step);
  }
  std::sort(gaps.begin(), gaps.end());
  EXPECT_GT(gaps.size(), 400u);
  EXPECT_LE(gaps[gaps.size() * 99 / 100], 2 * alone);
  // And the prompts are not starved: 20 ms of each step are theirs, 400 tokens.
  EXPECT_GT(prompts.size(), 400u * 400 / 2040);
}

TEST(SimReplicaTest, CachedBlocksAreNotComputedAgain) {
  SimDriver driver;
  EXPECT_EQ(driver.Answer(SimDriver::Request(Prompt(100), 4)).last.cached_prompt_tokens, 0);
  EXPECT_EQ(driver.Answer(SimDriver::Request(Prompt(100), 4)).last.cached_prompt_tokens, 96);
  SequenceRequest salted = SimDriver::Request(Prompt(100), 4);
  salted.cache_salt = "other";
  EXPECT_EQ(driver.Answer(salted).last.cached_prompt_tokens, 0);
}

TEST(SimReplicaTest, CreditPausesAndCancelEnds) {
  SimDriver driver;
  SequenceRequest request = SimDriver::Request(Prompt(20), 50);
  request.credit = 3;
  const uint64_t handle = *driver.Submit(request);
  driver.RunUntilIdle();
  EXPECT_THAT(driver.answers[handle].ids, SizeIs(3));
  driver.replica.AddCredit(handle, 2);
  driver.RunUntilIdle();
  EXPECT_THAT(driver.answers[handle].ids, SizeIs(5));
  driver.replica.Cancel(handle);
  driver.RunUntilIdle();
  EXPECT_EQ(driver.answers[handle].last.finish, FinishReason::kCancelled);
  EXPECT_EQ(driver.replica.Stats(driver.now).free_blocks, 1024);
}

TEST(SimReplicaTest, DeadlinesAndFullQueuesAreTheSchedulers) {
  SimReplicaOptions options = SimDriver::DefaultOptions();
  options.scheduler.max_waiting = 2;
  SimDriver driver(options);
  SequenceRequest request = SimDriver::Request(Prompt(20), 1000);
  request.deadline = driver.now + absl::Milliseconds(90);
  const uint64_t handle = *driver.Submit(request);
  ASSERT_TRUE(driver.Submit(SimDriver::Request(Prompt(20), 3)).ok());
  EXPECT_EQ(driver.Submit(request).status().code(), absl::StatusCode::kResourceExhausted);
  driver.RunUntilIdle();
  EXPECT_EQ(driver.answers[handle].last.finish, FinishReason::kDeadline);
  EXPECT_GE(driver.answers[handle].ids.size(), 3u);
}

TEST(SimReplicaTest, AShutDownEndsEverySequenceOnce) {
  SimDriver driver;
  ASSERT_TRUE(driver.Submit(Sampled(50)).ok());
  ASSERT_TRUE(driver.Submit(Sampled(50)).ok());
  driver.Step();
  std::vector<SequenceEvent> events;
  driver.replica.FailAll(absl::UnavailableError("bye"), driver.now, &events);
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_EQ(events[0].finish, FinishReason::kError);
  EXPECT_EQ(driver.replica.Stats(driver.now).running, 0);
}

}  // namespace
}  // namespace qwenserve
