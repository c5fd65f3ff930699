#include "services/gateway/call/failover.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using Verdict = Failover::Verdict;

const absl::Time kStart = absl::UnixEpoch();

TEST(RetryBudgetTest, IsAShareOfTheRequests) {
  RetryBudget budget({.ratio = 0.1, .per_second = 0, .most_saved = 5});
  EXPECT_FALSE(budget.TakeRetry(kStart));
  for (int i = 0; i < 21; ++i) budget.OnRequest();
  EXPECT_TRUE(budget.TakeRetry(kStart));
  EXPECT_TRUE(budget.TakeRetry(kStart));
  EXPECT_FALSE(budget.TakeRetry(kStart));
  // Quiet times save no more than a burst.
  for (int i = 0; i < 1000; ++i) budget.OnRequest();
  int taken = 0;
  while (budget.TakeRetry(kStart)) ++taken;
  EXPECT_EQ(taken, 5);
}

TEST(RetryBudgetTest, FewRequestsMayRetryToo) {
  RetryBudget budget({.ratio = 0, .per_second = 2, .most_saved = 10});
  EXPECT_TRUE(budget.TakeRetry(kStart));
  EXPECT_TRUE(budget.TakeRetry(kStart));
  EXPECT_FALSE(budget.TakeRetry(kStart));
  EXPECT_TRUE(budget.TakeRetry(kStart + absl::Milliseconds(500)));
  EXPECT_FALSE(budget.TakeRetry(kStart + absl::Milliseconds(600)));
  // A clock that was read late must not take anything back.
  EXPECT_FALSE(budget.TakeRetry(kStart));
  EXPECT_TRUE(budget.TakeRetry(kStart + absl::Milliseconds(1100)));
}

class FailoverTest : public testing::Test {
 protected:
  Verdict Lose(uint32_t sample, LossCause cause, bool tokens = true) {
    return failover_.OnLoss(sample, cause, /*resumable=*/true, tokens, now_);
  }

  RetryBudget budget_{{.ratio = 0, .per_second = 2, .most_saved = 2}};
  Failover failover_{3, absl::Seconds(5), &budget_};
  absl::Time now_ = kStart;
};

TEST_F(FailoverTest, EachSampleHasItsAttempts) {
  EXPECT_EQ(failover_.next_attempt(0), 0u);
  failover_.OnSubmit(0, "a");
  failover_.OnSubmit(1, "a");
  EXPECT_EQ(Lose(1, LossCause::kEnded), Verdict::kResubmit);
  EXPECT_EQ(failover_.next_attempt(1), 1u);
  failover_.OnSubmit(1, "b");
  EXPECT_EQ(failover_.attempt(0), 0u);
  EXPECT_EQ(failover_.attempt(1), 1u);
  EXPECT_EQ(failover_.failovers(), 1u);
  EXPECT_EQ(failover_.replicas(), 2u);
}

TEST_F(FailoverTest, TwoLossesOfASampleArePoison) {
  failover_.OnSubmit(0, "a");
  EXPECT_EQ(Lose(0, LossCause::kEnded), Verdict::kResubmit);
  failover_.OnSubmit(0, "a");  // it has come back
  EXPECT_EQ(Lose(0, LossCause::kSilent), Verdict::kPoison);
}

TEST_F(FailoverTest, SamplesAtOneReplicaAreLostOnce) {
  for (uint32_t sample = 0; sample < 3; ++sample) failover_.OnSubmit(sample, "a");
  for (uint32_t sample = 0; sample < 3; ++sample) {
    EXPECT_EQ(Lose(sample, LossCause::kEnded), Verdict::kResubmit);
  }
}

TEST_F(FailoverTest, SamplesOfOneRequestTakeDownNoThirdReplica) {
  for (uint32_t sample = 0; sample < 3; ++sample) {
    failover_.OnSubmit(sample, std::string(1, static_cast<char>('a' + sample)));
  }
  EXPECT_EQ(Lose(0, LossCause::kEnded), Verdict::kResubmit);
  EXPECT_EQ(Lose(1, LossCause::kFailed), Verdict::kPoison);
}

TEST_F(FailoverTest, DrainsAreNoPoison) {
  for (int i = 0; i < 5; ++i) {
    failover_.OnSubmit(0, std::string(1, static_cast<char>('a' + i)));
    EXPECT_EQ(Lose(0, LossCause::kDraining), Verdict::kResubmit);
  }
}

TEST_F(FailoverTest, WhatAPausedGatewayLostIsNoPoison) {
  for (int i = 0; i < 5; ++i) {
    failover_.OnSubmit(0, std::string(1, static_cast<char>('a' + i)));
    EXPECT_EQ(Lose(0, LossCause::kPaused), Verdict::kResubmit);
  }
}

TEST_F(FailoverTest, WithoutAFingerprintOnlyWhatHasNotBegunGoesOn) {
  failover_.OnSubmit(0, "a");
  failover_.OnSubmit(1, "a");
  EXPECT_EQ(failover_.OnLoss(0, LossCause::kEnded, false, false, now_), Verdict::kResubmit);
  EXPECT_EQ(failover_.OnLoss(1, LossCause::kEnded, false, true, now_), Verdict::kNoResume);
}

TEST_F(FailoverTest, RefusalsOfNewRequestsUseTheBudget) {
  failover_.OnSubmit(0, "a");
  EXPECT_EQ(Lose(0, LossCause::kRefused, false), Verdict::kResubmit);
  EXPECT_EQ(failover_.Excluded(0), std::vector<std::string>{"a"});
  EXPECT_FALSE(failover_.accepted(0));
  // The others have had no part in it.
  EXPECT_FALSE(failover_.OnNoReplica(0, now_).has_value());
  failover_.OnSubmit(0, "b");
  EXPECT_EQ(Lose(0, LossCause::kUnreachable, false), Verdict::kResubmit);
  EXPECT_EQ(Lose(0, LossCause::kUnreachable, false), Verdict::kNoBudget);
  now_ += absl::Seconds(10);
  EXPECT_EQ(Lose(0, LossCause::kUnreachable, false), Verdict::kResubmit);
  EXPECT_EQ(Lose(0, LossCause::kUnreachable, false), Verdict::kGiveUp);
}

TEST_F(FailoverTest, WhatWasAcceptedOnceIsOutsideOfTheBudget) {
  while (budget_.TakeRetry(now_)) {
  }
  failover_.OnSubmit(0, "a");
  EXPECT_EQ(Lose(0, LossCause::kEnded, false), Verdict::kResubmit);
  EXPECT_TRUE(failover_.accepted(0));
  for (int i = 0; i < 20; ++i) {
    failover_.OnSubmit(0, "b");
    EXPECT_EQ(Lose(0, LossCause::kRefused, false), Verdict::kResubmit);
  }
  // Full replicas are not asked without a pause.
  EXPECT_GT(failover_.not_before(0), now_);
}

TEST_F(FailoverTest, WaitsForAnEqualReplicaForALimitedTime) {
  failover_.OnSubmit(0, "a");
  EXPECT_EQ(Lose(0, LossCause::kEnded), Verdict::kResubmit);
  int looks = 0;
  while (const auto again = failover_.OnNoReplica(0, now_)) {
    ASSERT_GT(*again, now_);
    now_ = *again;
    ++looks;
  }
  EXPECT_EQ(now_, kStart + absl::Seconds(5));
  EXPECT_EQ(looks, 50);
}

TEST_F(FailoverTest, AFailedReplicaIsNotAskedAgainButAFullOneIs) {
  failover_.OnSubmit(0, "a");
  EXPECT_EQ(Lose(0, LossCause::kFailed), Verdict::kResubmit);
  failover_.OnSubmit(0, "b");
  EXPECT_EQ(Lose(0, LossCause::kRefused), Verdict::kResubmit);
  EXPECT_EQ(failover_.Excluded(0), (std::vector<std::string>{"a", "b"}));
  ASSERT_TRUE(failover_.OnNoReplica(0, now_).has_value());
  EXPECT_EQ(failover_.Excluded(0), std::vector<std::string>{"a"});
}

TEST_F(FailoverTest, AStalledSampleIsNotMovedToAThirdReplica) {
  failover_.OnSubmit(0, "a");
  EXPECT_TRUE(failover_.MayMove(0, LossCause::kStalled));
  EXPECT_EQ(Lose(0, LossCause::kEnded), Verdict::kResubmit);
  failover_.OnSubmit(0, "b");
  EXPECT_FALSE(failover_.MayMove(0, LossCause::kStalled));
  EXPECT_TRUE(failover_.MayMove(0, LossCause::kDraining));
}

}  // namespace
}  // namespace qwenserve
