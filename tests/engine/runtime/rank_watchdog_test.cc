// What a watchdog takes for a failure, and what it does about it; alone and over NCCL's fake.
#include "engine/runtime/rank_watchdog.h"

#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/comm/nccl_communicator.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "tests/kernels/cuda/comm/fake_nccl.h"
#include "tests/kernels/virtual_clock.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(120);

// Does as it is told.
class ToldCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  absl::Status AllReduceSum(float*, int64_t) override { return absl::OkStatus(); }
  absl::Status AllGather(const float*, int64_t, int64_t, float*) override {
    return absl::OkStatus();
  }
  bool replayable() const override { return true; }
  absl::Status Health() override {
    std::lock_guard<std::mutex> lock(mutex_);
    return health_;
  }
  void Abort() override {
    ++aborts_;
    // A copy: when it returns, this object may be gone.
    const std::shared_future<void> released = released_;
    if (hangs_) released.wait();
  }

  void SetHealth(absl::Status health) {
    std::lock_guard<std::mutex> lock(mutex_);
    health_ = std::move(health);
  }
  void HangInAbort() { hangs_ = true; }
  void Release() { release_.set_value(); }
  int aborts() const { return aborts_; }

 private:
  std::mutex mutex_;
  absl::Status health_;  // under mutex_
  std::atomic<int> aborts_{0};
  std::atomic<bool> hangs_{false};
  std::promise<void> release_;
  const std::shared_future<void> released_ = release_.get_future().share();
};

class RankWatchTest : public testing::Test {
 protected:
  RankWatchTest() : group_(*RankGroup::Create(2)), watch_(group_, 1, communicator_, kTimeout) {}

  absl::Status LookAt(double seconds) { return watch_.Look(absl::Seconds(seconds)); }
  void BeginStep(uint64_t step) {
    group_->BeginStep(1, step);
    usleep(2);  // its age must not be 0
  }

  std::shared_ptr<RankGroup> group_;
  ToldCommunicator communicator_;
  RankWatch watch_;
};

TEST_F(RankWatchTest, IdlingIsNoStall) {
  EXPECT_TRUE(LookAt(0).ok());
  EXPECT_TRUE(LookAt(1e6).ok());
  BeginStep(1);
  EXPECT_TRUE(LookAt(1e6 + 1).ok());
  group_->EndStep(1, 1);
  EXPECT_TRUE(LookAt(2e6).ok());
}

TEST_F(RankWatchTest, EveryStepHasTheWholeTime) {
  BeginStep(1);
  EXPECT_TRUE(LookAt(0).ok());
  EXPECT_TRUE(LookAt(119).ok());
  BeginStep(2);  // ahead of the end of the first
  group_->EndStep(1, 1);
  usleep(2);
  EXPECT_TRUE(LookAt(121).ok());
  EXPECT_TRUE(LookAt(240).ok());
  EXPECT_EQ(LookAt(241), absl::UnavailableError("rank 1 is stalled: the step after step 1 has "
                                                "taken longer than 2m"));
}

TEST_F(RankWatchTest, AnErrorOfTheCommunicatorOrTheGroupIsTheReason) {
  communicator_.SetHealth(absl::UnavailableError("remote process exited"));
  EXPECT_EQ(LookAt(0), absl::UnavailableError("remote process exited"));
  group_->Abort("rank 0 was killed");
  EXPECT_EQ(LookAt(0), absl::UnavailableError("rank 0 was killed"));
}

class RankWatchdogTest : public testing::Test {
 protected:
  RankWatchdogTest() : group_(*RankGroup::Create(2)) {
    options_.step_timeout = kTimeout;
    options_.clock = &clock_;
    options_.on_failure = [this] { told_.set_value(true); };
    options_.end_process = [this](const absl::Status& reason) { ended_.set_value(reason); };
  }
  void WaitForAbort() {
    EXPECT_TRUE(told_.get_future().get());
    while (communicator_.aborts() == 0) std::this_thread::yield();
  }

  VirtualClock clock_;
  std::shared_ptr<RankGroup> group_;
  ToldCommunicator communicator_;
  WatchdogOptions options_;
  std::promise<bool> told_;
  std::promise<absl::Status> ended_;
};

TEST_F(RankWatchdogTest, AStepThatDoesNotEndEndsTheGroupAndTheCollectives) {
  group_->BeginStep(0, 7);
  const absl::Duration begin = clock_.Now();
  RankWatchdog watchdog(group_, 0, communicator_, options_);
  WaitForAbort();
  EXPECT_GE(clock_.Now() - begin, kTimeout);
  EXPECT_THAT(std::string(group_->Health().message()), HasSubstr("rank 0 is stalled"));
}

TEST_F(RankWatchdogTest, AnotherRanksEndIsThisRanksEnd) {
  RankWatchdog watchdog(group_, 0, communicator_, options_);
  group_->Abort("rank 1 was killed");
  WaitForAbort();
  EXPECT_EQ(group_->Health(), absl::UnavailableError("rank 1 was killed"));
}

TEST_F(RankWatchdogTest, WhatNcclFindsReachesTheGroup) {
  RankWatchdog watchdog(group_, 0, communicator_, options_);
  communicator_.SetHealth(absl::UnavailableError("remote process exited"));
  WaitForAbort();
  EXPECT_EQ(group_->Health(), absl::UnavailableError("remote process exited"));
}

TEST_F(RankWatchdogTest, AnAbortThatHangsEndsTheProcess) {
  communicator_.HangInAbort();
  {
    RankWatchdog watchdog(group_, 0, communicator_, options_);
    group_->Abort("rank 1 was killed");
    const absl::Duration begin = clock_.Now();
    EXPECT_EQ(ended_.get_future().get(), absl::UnavailableError("rank 1 was killed"));
    EXPECT_GE(clock_.Now() - begin, options_.abort_timeout);
  }
  communicator_.Release();
}

TEST_F(RankWatchdogTest, ByDefaultTheEndOfTheProcessIsItsExitStatus) {
  communicator_.HangInAbort();
  group_->Abort("rank 1 was killed");
  options_.end_process = nullptr;
  options_.abort_timeout = absl::Milliseconds(50);
  options_.clock = &SteadyClock::Real();
  const auto end = [&] {
    RankWatchdog watchdog(group_, 0, communicator_, options_);
    while (true) pause();
  };
  EXPECT_EXIT(end(), testing::ExitedWithCode(1), "");
}

TEST_F(RankWatchdogTest, CollectivesThatBlockNeedNone) {
  EXPECT_NE(WatchRank(group_, 0, communicator_, kTimeout, nullptr), nullptr);
  class Blocking final : public Communicator {
    int rank() const override { return 0; }
    int size() const override { return 2; }
    absl::Status AllReduceSum(float*, int64_t) override { return absl::OkStatus(); }
    absl::Status AllGather(const float*, int64_t, int64_t, float*) override {
      return absl::OkStatus();
    }
    absl::Status Health() override { return absl::OkStatus(); }
    void Abort() override {}
  } blocking;
  EXPECT_EQ(WatchRank(group_, 0, blocking, kTimeout, nullptr), nullptr);
}

// Three ranks over the fake NCCL; one of them hangs in a collective, and all of them come to an
// end.
TEST(WatchdogOverNccl, OneRankThatHangsEndsAllOfThem) {
  constexpr int kRanks = 3;
  FakeNccl fake;
  fake.SetFaults(1, {.hang_at = 12});
  auto group = *RankGroup::Create(kRanks);
  const std::string id = *NewNcclGroup(fake.api());
  std::vector<std::thread> threads;
  for (int r = 0; r < kRanks; ++r) {
    threads.emplace_back([&, r] {
      VirtualClock clock;
      auto device = MakeSimtDevice(r + 1);
      DeviceGroup devices;
      devices.id = id;
      devices.rank = r;
      devices.size = kRanks;
      devices.timeout = absl::InfiniteDuration();  // it must be the watchdogs that end it
      devices.health = [group] { return absl::OkStatus(); };
      auto joined = JoinNcclGroup(fake.api(), *device, on_simt::GetCommKernels(), devices, clock);
      ASSERT_TRUE(joined.ok()) << joined.status();
      WatchdogOptions options;
      options.step_timeout = kTimeout;
      options.clock = &clock;
      RankWatchdog watchdog(group, r, **joined, options);
      Buffer data = *AllocateGpuBuffer(*device, 64);
      absl::Status status;
      for (uint64_t step = 1; status.ok(); ++step) {
        group->BeginStep(r, step);
        status = (*joined)->AllReduceSum(data.as<float>(), 16);
        if (status.ok()) group->EndStep(r, step);
      }
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
      EXPECT_FALSE(group->Health().ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(fake.aborts(), kRanks);
  EXPECT_THAT(std::string(group->Health().message()), HasSubstr("is stalled"));
}

}  // namespace
}  // namespace qwenserve
