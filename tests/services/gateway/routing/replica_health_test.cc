#include "services/gateway/routing/replica_health.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using State = ReplicaHealth::State;

class ReplicaHealthTest : public testing::Test {
 protected:
  std::shared_ptr<ReplicaHealth> Add(const std::string& address) {
    auto health = fleet_.Of(address);
    health->OnConnected("model", "instance of " + address, now_);
    return health;
  }
  std::vector<std::shared_ptr<ReplicaHealth>> AddMany(int count) {
    std::vector<std::shared_ptr<ReplicaHealth>> all;
    for (int i = 0; i < count; ++i) all.push_back(Add("replica-" + std::to_string(i)));
    fleet_.Tick(now_);
    return all;
  }
  void End(ReplicaHealth& health, SequenceOutcome outcome, int times = 1) {
    for (int i = 0; i < times; ++i) health.OnEnded(outcome, now_);
  }
  // An interval in which replica i does steps of step_ms[i].
  FleetHealth::Report RunInterval(const std::vector<std::shared_ptr<ReplicaHealth>>& all,
                                  const std::vector<int>& step_ms) {
    for (int beat = 0; beat < 5; ++beat) {
      now_ += absl::Milliseconds(500);
      for (size_t i = 0; i < all.size(); ++i) {
        v1::EngineStats stats;
        stats.set_running(1);
        stats.set_step(absl::ToInt64Milliseconds(now_ - start_) / step_ms[i]);
        all[i]->OnHeartbeat(stats, now_);
      }
    }
    return fleet_.Tick(now_);
  }

  const absl::Time start_ = absl::UnixEpoch();
  absl::Time now_ = start_;
  FleetHealth fleet_{HealthSettings()};
};

TEST_F(ReplicaHealthTest, BreakerOpensAfterFailuresInARow) {
  auto health = Add("a");
  End(*health, SequenceOutcome::kFailure, 4);
  End(*health, SequenceOutcome::kSuccess);
  End(*health, SequenceOutcome::kFailure, 4);
  End(*health, SequenceOutcome::kNeutral);
  EXPECT_TRUE(health->Admits(now_));
  End(*health, SequenceOutcome::kFailure);
  EXPECT_EQ(health->state(now_), State::kBreakerOpen);
  EXPECT_FALSE(health->Admits(now_));
  EXPECT_EQ(fleet_.Tick(now_).breakers_opened, 1u);
  EXPECT_EQ(fleet_.Tick(now_).breaker_open, 1);
}

TEST_F(ReplicaHealthTest, OneTrialDecides) {
  auto health = Add("a");
  End(*health, SequenceOutcome::kFailure, 5);
  End(*health, SequenceOutcome::kSuccess);  // begun long before
  EXPECT_EQ(health->state(now_), State::kBreakerOpen);
  now_ += absl::Seconds(1);
  EXPECT_TRUE(health->Admits(now_));
  health->OnPlaced(now_);
  EXPECT_EQ(health->state(now_), State::kTrial);
  EXPECT_FALSE(health->Admits(now_));
  health->OnFirstToken(now_);
  EXPECT_EQ(health->state(now_), State::kHealthy);
  EXPECT_TRUE(health->Admits(now_));
  EXPECT_LT(health->Share(now_), 0.2);  // slow start
}

TEST_F(ReplicaHealthTest, FailedTrialsWaitLonger) {
  auto health = Add("a");
  End(*health, SequenceOutcome::kFailure, 5);
  for (int seconds : {1, 2, 4, 8, 16, 30, 30}) {
    now_ += absl::Seconds(seconds) - absl::Milliseconds(1);
    EXPECT_FALSE(health->Admits(now_)) << seconds;
    now_ += absl::Milliseconds(1);
    EXPECT_TRUE(health->Admits(now_)) << seconds;
    health->OnPlaced(now_);
    End(*health, SequenceOutcome::kFailure);
  }
}

TEST_F(ReplicaHealthTest, ATrialThatTellsNothingIsFollowedByAnother) {
  auto health = Add("a");
  End(*health, SequenceOutcome::kFailure, 5);
  now_ += absl::Seconds(1);
  health->OnPlaced(now_);
  End(*health, SequenceOutcome::kNeutral);
  EXPECT_TRUE(health->Admits(now_));
  health->OnPlaced(now_);
  EXPECT_FALSE(health->Admits(now_));
  now_ += absl::Seconds(10);
  EXPECT_TRUE(health->Admits(now_));
}

TEST_F(ReplicaHealthTest, SessionsThatDieWithWorkCount) {
  auto health = Add("a");
  for (int i = 0; i < 5; ++i) health->OnLost(false, now_);
  EXPECT_TRUE(health->Admits(now_));
  for (int i = 0; i < 5; ++i) {
    health->OnConnected("model", "instance-" + std::to_string(i), now_);
    health->OnLost(true, now_);
  }
  health->OnConnected("model", "again", now_);
  EXPECT_FALSE(health->Admits(now_));
}

TEST_F(ReplicaHealthTest, SlowStart) {
  auto health = Add("a");
  EXPECT_DOUBLE_EQ(health->Share(now_), 0.1);
  now_ += absl::Milliseconds(2500);
  EXPECT_DOUBLE_EQ(health->Share(now_), 0.5);
  now_ += absl::Milliseconds(2500);
  EXPECT_EQ(health->Share(now_), 1);
  health->OnConnected("model", "instance of a", now_);  // only the session is new
  EXPECT_EQ(health->Share(now_), 1);
  health->OnConnected("model", "another", now_);
  EXPECT_DOUBLE_EQ(health->Share(now_), 0.1);
}

TEST_F(ReplicaHealthTest, MoreErrorsThanOthersEject) {
  auto all = AddMany(4);
  auto fail_half = [&](ReplicaHealth& health) {
    for (int i = 0; i < 10; ++i) {
      End(health, SequenceOutcome::kFailure);
      End(health, SequenceOutcome::kSuccess);
    }
  };
  for (int round = 1; round <= 2; ++round) {
    fail_half(*all[2]);
    for (int i : {0, 1, 3}) End(*all[i], SequenceOutcome::kSuccess, 20);
    now_ += absl::Seconds(5);
    const FleetHealth::Report report = fleet_.Tick(now_);
    EXPECT_EQ(report.ejected_for_errors, 1);
    EXPECT_EQ(report.ejected, 1);
    EXPECT_EQ(report.notes.size(), 1u);
    EXPECT_EQ(all[2]->state(now_), State::kEjected);
    EXPECT_TRUE(all[0]->Admits(now_));
    // Longer each time.
    now_ += absl::Seconds(10) * round - absl::Milliseconds(1);
    EXPECT_FALSE(all[2]->Admits(now_));
    now_ += absl::Milliseconds(1);
    EXPECT_TRUE(all[2]->Admits(now_));
    EXPECT_LT(all[2]->Share(now_), 0.2);
    fleet_.Tick(now_);
  }
}

TEST_F(ReplicaHealthTest, ErrorsThatAllHaveEjectNobody) {
  auto all = AddMany(4);
  for (auto& health : all) {
    for (int i = 0; i < 10; ++i) {
      End(*health, SequenceOutcome::kFailure);
      End(*health, SequenceOutcome::kSuccess);
    }
  }
  now_ += absl::Seconds(5);
  EXPECT_EQ(fleet_.Tick(now_).ejected, 0);
}

TEST_F(ReplicaHealthTest, SlowStepsEject) {
  auto all = AddMany(5);
  RunInterval(all, {10, 10, 12, 9, 11});
  EXPECT_EQ(RunInterval(all, {10, 10, 12, 100, 11}).ejected, 0);
  const FleetHealth::Report report = RunInterval(all, {10, 10, 12, 100, 11});
  EXPECT_EQ(report.ejected_for_latency, 1);
  EXPECT_EQ(all[3]->state(now_), State::kEjected);
}

TEST_F(ReplicaHealthTest, SlowStepsMakeTheShareSmaller) {
  auto all = AddMany(4);
  now_ += absl::Seconds(5);
  RunInterval(all, {10, 10, 30, 12});
  RunInterval(all, {10, 10, 30, 12});
  RunInterval(all, {10, 10, 30, 12});
  EXPECT_EQ(all[0]->Share(now_), 1);
  EXPECT_EQ(all[3]->Share(now_), 1);
  EXPECT_NEAR(all[2]->Share(now_), 0.6, 0.1);  // 12 / 30 * 1.5
  EXPECT_EQ(all[2]->state(now_), State::kHealthy);
  RunInterval(all, {10, 10, 10, 12});
  EXPECT_EQ(all[2]->Share(now_), 1);
}

TEST_F(ReplicaHealthTest, ASlowOneOfWhichNothingIsSeenGetsItsShareBack) {
  auto all = AddMany(4);
  now_ += absl::Seconds(5);
  RunInterval(all, {10, 10, 150, 10});
  double share = all[2]->Share(now_);
  EXPECT_NEAR(share, 0.1, 0.01);
  // Nobody has anything to do.
  for (int i = 0; i < 3; ++i) {
    now_ += absl::Milliseconds(2500);
    fleet_.Tick(now_);
    EXPECT_DOUBLE_EQ(all[2]->Share(now_), 2 * share);
    share = all[2]->Share(now_);
  }
  now_ += absl::Milliseconds(2500);
  fleet_.Tick(now_);
  EXPECT_EQ(all[2]->Share(now_), 1);
}

TEST_F(ReplicaHealthTest, ASlowOneThatIsBackIsSoonOutAgain) {
  auto all = AddMany(4);
  RunInterval(all, {10, 10, 100, 10});
  RunInterval(all, {10, 10, 100, 10});
  EXPECT_EQ(all[2]->state(now_), State::kEjected);
  now_ += absl::Seconds(10);
  fleet_.Tick(now_);
  all[2]->OnConnected("model", "instance of replica-2", now_);
  EXPECT_EQ(all[2]->state(now_), State::kHealthy);
  EXPECT_EQ(RunInterval(all, {10, 10, 100, 10}).ejected_for_latency, 1);
}

TEST_F(ReplicaHealthTest, AStepThatNeverEndsIsSlow) {
  auto all = AddMany(3);
  RunInterval(all, {10, 10, 10});
  RunInterval(all, {10, 10, 1 << 30});
  RunInterval(all, {10, 10, 1 << 30});
  EXPECT_EQ(all[2]->state(now_), State::kEjected);
}

TEST_F(ReplicaHealthTest, OnlyAShareIsEjectedAndNeverTheLast) {
  auto all = AddMany(8);
  RunInterval(all, {10, 10, 10, 10, 10, 10, 10, 10});
  RunInterval(all, {10, 10, 10, 10, 10, 200, 200, 200});
  EXPECT_EQ(RunInterval(all, {10, 10, 10, 10, 10, 200, 200, 200}).ejected, 2);

  FleetHealth one{HealthSettings()};
  auto health = one.Of("a");
  health->OnConnected("model", "a", now_);
  one.Tick(now_);
  for (int i = 0; i < 40; ++i) {
    health->OnEnded(i % 4 == 0 ? SequenceOutcome::kSuccess : SequenceOutcome::kFailure, now_);
  }
  now_ += absl::Seconds(5);
  EXPECT_EQ(one.Tick(now_).ejected, 0);
}

TEST_F(ReplicaHealthTest, ModelsAreJudgedApart) {
  std::vector<std::shared_ptr<ReplicaHealth>> all = AddMany(3);
  for (int i = 0; i < 3; ++i) {
    all.push_back(fleet_.Of("large-" + std::to_string(i)));
    all.back()->OnConnected("large", "large-" + std::to_string(i), now_);
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(RunInterval(all, {10, 10, 10, 200, 200, 200}).ejected, 0);
  }
}

}  // namespace
}  // namespace qwenserve
