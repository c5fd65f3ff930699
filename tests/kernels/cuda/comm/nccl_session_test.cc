// The life of a membership against a library that misbehaves. Hours pass on a clock of the test's.
#include "kernels/cuda/comm/nccl_session.h"

#include <functional>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/cuda/comm/fake_nccl.h"
#include "tests/kernels/virtual_clock.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(2);

class NcclSessionTest : public testing::Test {
 protected:
  NcclSessionTest() {
    EXPECT_EQ(fake_.api().GetUniqueId(&id_), kNcclSuccess);
    group_.size = 2;
    group_.timeout = kTimeout;
    group_.health = [this] {
      std::lock_guard<std::mutex> lock(mutex_);
      return group_health_;
    };
  }

  void FailGroup(const absl::Status& reason) {
    std::lock_guard<std::mutex> lock(mutex_);
    group_health_ = reason;
  }

  absl::StatusOr<std::unique_ptr<NcclSession>> Join(int rank) {
    DeviceGroup group = group_;
    group.rank = rank;
    return NcclSession::Join(fake_.api(), id_, group, clock_);
  }

  // Both ranks, each on a thread of its own.
  void RunBoth(const std::function<void(NcclSession&, int)>& body) {
    std::vector<std::thread> threads;
    for (int r = 0; r < 2; ++r) {
      threads.emplace_back([&, r] {
        auto session = Join(r);
        ASSERT_TRUE(session.ok()) << session.status();
        body(**session, r);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  static absl::Status Gather(NcclSession& session) {
    float mine = 1, all[2];
    return session.Call("a gather", [&](NcclComm comm) {
      return session.api().AllGather(&mine, all, 1, kNcclFloat32, comm, nullptr);
    });
  }

  std::mutex mutex_;
  absl::Status group_health_;  // under mutex_
  FakeNccl fake_;
  VirtualClock clock_;
  NcclUniqueId id_;
  DeviceGroup group_;
};

TEST_F(NcclSessionTest, CallsAreTakenHoweverOftenTheyAreInProgress) {
  fake_.SetFaults(0, {.polls = 1000});
  fake_.SetFaults(1, {.polls = 3});
  RunBoth([](NcclSession& session, int) {
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(Gather(session).ok());
    EXPECT_TRUE(session.Health().ok());
  });
  EXPECT_EQ(fake_.destroys(), 2);
  EXPECT_EQ(fake_.aborts(), 0);
}

TEST_F(NcclSessionTest, AJoinThatHangsEndsAtItsDeadline) {
  const absl::Duration begin = clock_.Now();
  const absl::Status status = Join(0).status();  // nobody else comes
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 0: NCCL has not finished joining"));
  EXPECT_GE(clock_.Now() - begin, kTimeout);
  EXPECT_LT(clock_.Now() - begin, 2 * kTimeout);
  EXPECT_EQ(fake_.aborts(), 1);
}

TEST_F(NcclSessionTest, AJoinEndsWhenAnotherRankFails) {
  group_.timeout = absl::InfiniteDuration();
  std::thread failing([this] { FailGroup(absl::UnavailableError("rank 1 has no memory")); });
  EXPECT_EQ(Join(0).status(), absl::UnavailableError("rank 1 has no memory"));
  failing.join();
  EXPECT_EQ(fake_.aborts(), 1);
}

TEST_F(NcclSessionTest, ACallThatHangsEndsAtItsDeadlineAndTheMembershipWithIt) {
  fake_.SetFaults(1, {.hang_at = 2});
  RunBoth([](NcclSession& session, int) {
    EXPECT_TRUE(Gather(session).ok());
    EXPECT_TRUE(Gather(session).ok());
    const absl::Status status = Gather(session);
    EXPECT_THAT(std::string(status.message()), HasSubstr("has not finished a gather within 2s"));
    EXPECT_EQ(Gather(session), status);
    EXPECT_EQ(session.Health(), status);
  });
  EXPECT_EQ(fake_.calls(0), 3);  // none after the end
  EXPECT_EQ(fake_.aborts(), 2);
  EXPECT_EQ(fake_.destroys(), 0);
}

TEST_F(NcclSessionTest, AFailedCallTellsWhatNcclSays) {
  fake_.SetFaults(0, {.fail_at = 0});
  group_.size = 1;
  auto session = Join(0);
  ASSERT_TRUE(session.ok());
  EXPECT_EQ(Gather(**session), absl::UnavailableError("rank 0: NCCL failed in a gather: unhandled "
                                                      "cuda error (the fake says so)"));
  EXPECT_EQ(fake_.aborts(), 1);
}

TEST_F(NcclSessionTest, AnErrorInTheBackgroundShowsInHealth) {
  fake_.SetFaults(1, {.late_error_at = 0});
  RunBoth([](NcclSession& session, int rank) {
    EXPECT_TRUE(Gather(session).ok());
    if (rank == 0) {
      EXPECT_TRUE(session.Health().ok());
      session.Abort();
      return;
    }
    EXPECT_THAT(std::string(session.Health().message()), HasSubstr("remote process exited"));
    EXPECT_EQ(Gather(session), session.Health());
  });
  EXPECT_EQ(fake_.aborts(), 2);
}

TEST_F(NcclSessionTest, AbortFromAnotherThreadEndsACall) {
  group_.timeout = absl::InfiniteDuration();
  fake_.SetFaults(0, {.hang_at = 0});
  group_.size = 1;
  auto session = Join(0);
  ASSERT_TRUE(session.ok());
  std::thread aborting([&] {
    while (fake_.calls(0) == 0) std::this_thread::yield();
    (*session)->Abort();
  });
  EXPECT_EQ(Gather(**session), absl::UnavailableError("rank 0 has given up"));
  aborting.join();
  EXPECT_EQ(fake_.aborts(), 1);
}

TEST_F(NcclSessionTest, AbortEndsACallThatDoesNotReturnFromTheLibrary) {
  fake_.SetFaults(0, {.block_at = 0});
  group_.size = 1;
  auto session = Join(0);
  ASSERT_TRUE(session.ok());
  std::thread aborting([&] {
    while (fake_.calls(0) == 0) std::this_thread::yield();
    EXPECT_TRUE((*session)->Health().ok());  // does not wait for the call
    (*session)->Abort();
  });
  EXPECT_EQ(Gather(**session), absl::UnavailableError("rank 0 has given up"));
  aborting.join();
  EXPECT_EQ(fake_.aborts(), 1);
}

TEST_F(NcclSessionTest, AnAbortThatHangsIsLeftBehind) {
  fake_.SetFaults(0, {.hang_at = 0, .hang_in_abort = true});
  group_.size = 1;
  auto session = Join(0);
  ASSERT_TRUE(session.ok());
  EXPECT_THAT(std::string(Gather(**session).message()), HasSubstr("has not finished"));
  EXPECT_EQ(fake_.aborts(), 1);
  session->reset();
}

TEST_F(NcclSessionTest, LeavingDoesNotWaitForEverForTheOthers) {
  fake_.SetFaults(0, {.hang_at = 0});  // so that rank 0 never comes to leave
  RunBoth([this](NcclSession& session, int rank) {
    if (rank == 1) return;  // leaves at once
    while (fake_.aborts() == 0) std::this_thread::yield();
  });
  EXPECT_GE(fake_.aborts(), 1);
}

}  // namespace
}  // namespace qwenserve
