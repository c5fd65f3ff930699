// Replicas whose ranks meet through a group of devices: NCCL's communicator over its fake, with the
// CPU's ops between. Nothing here is a GPU; what is tested is how ranks, communicators, watchdogs
// and the engine live and end together.
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/comm/nccl_communicator.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "tests/engine/runtime/engine_harness.h"
#include "tests/engine/tiny_checkpoint.h"
#include "tests/kernels/cuda/comm/fake_nccl.h"
#include "tests/kernels/forwarding_backend.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

// Joins through the fake, and finds out who forgets to forget what could be replayed.
class GroupedBackend final : public ForwardingBackend {
 public:
  GroupedBackend(std::unique_ptr<Backend> device, FakeNccl& fake, absl::Status no_library,
                 std::atomic<int>* joined)
      : ForwardingBackend(std::move(device)),
        fake_(fake),
        no_library_(std::move(no_library)),
        joined_(*joined) {}
  ~GroupedBackend() override { EXPECT_TRUE(forgotten_ || !joined_here_); }

  bool needs_device_group() const override { return true; }
  absl::StatusOr<std::string> NewDeviceGroup(const std::string&) override {
    if (!no_library_.ok()) return no_library_;
    return NewNcclGroup(fake_.api());
  }
  absl::StatusOr<std::unique_ptr<Communicator>> JoinDeviceGroup(const DeviceGroup& group) override {
    gpu_ = MakeSimtDevice(group.rank + 1);
    auto communicator =
        JoinNcclGroup(fake_.api(), *gpu_, on_simt::GetCommKernels(), group, SteadyClock::Real());
    joined_here_ = communicator.ok();
    rank_ = group.rank;
    ended_before_ = fake_.ends(rank_);
    joined_ += joined_here_ ? 1 : 0;
    return communicator;
  }
  // The fake's calls cannot be recorded.
  absl::Status Replay(uint64_t, absl::FunctionRef<absl::Status()> issue) override {
    return issue();
  }
  void ForgetReplays() override {
    // Before the communicator goes, unless it was aborted.
    forgotten_ = fake_.ends(rank_) == ended_before_ || fake_.aborts() > 0;
  }

 private:
  FakeNccl& fake_;
  const absl::Status no_library_;
  std::atomic<int>& joined_;
  std::unique_ptr<GpuDevice> gpu_;
  int rank_ = 0;
  int ended_before_ = 0;
  bool joined_here_ = false;
  bool forgotten_ = false;
};

class DeviceGroupTest : public testing::Test {
 protected:
  EngineOptions Options(int tp) {
    EngineOptions options = TinyOptions(WriteTinyCheckpoint("device_group", TinyModel()));
    options.tp = tp;
    options.wrap_backend = [this](std::unique_ptr<Backend> device) -> std::unique_ptr<Backend> {
      return std::make_unique<GroupedBackend>(std::move(device), fake_, no_library_, &joined_);
    };
    return options;
  }

  // A sequence is under way when rank `rank` misbehaves; the engine must fail soon, saying
  // `reason`.
  void ExpectFailure(int tp, int rank, FakeNccl::Faults faults, const std::string& reason) {
    EngineOptions options = Options(tp);
    options.step_timeout = absl::Milliseconds(500);
    EngineHarness harness(options);
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    SequenceRequest request = GreedyRequest({1, 2, 3}, 500);
    request.credit = 1;
    const uint64_t sequence = harness.Submit(request);
    harness.WaitForIds(sequence, 1);
    const int now = fake_.calls(rank);
    if (faults.hang_at >= 0) faults.hang_at = now + 7;
    if (faults.late_error_at >= 0) faults.late_error_at = now + 7;
    if (faults.fail_at >= 0) faults.fail_at = now + 7;
    if (faults.block_at >= 0) faults.block_at = now + 7;
    fake_.SetFaults(rank, faults);
    const absl::Time begun = absl::Now();
    harness.engine().AddCredit(sequence, 400);
    const Answer answer = harness.Wait(sequence);
    EXPECT_EQ(answer.finish, FinishReason::kError);
    EXPECT_THAT(std::string(answer.error.message()), testing::ContainsRegex(reason));
    EXPECT_EQ(harness.engine().Health(), answer.error);
    EXPECT_LT(absl::Now() - begun, absl::Seconds(5));
  }

  FakeNccl fake_;
  absl::Status no_library_;
  std::atomic<int> joined_{0};
};

TEST_F(DeviceGroupTest, TokensAreThoseOfRanksThatMeetInTheHostsMemory) {
  const std::vector<SequenceRequest> requests = MixedRequests(6, 320);
  for (int tp : {2, 3, 4}) {
    SCOPED_TRACE(tp);
    EngineOptions host = Options(tp);
    host.wrap_backend = nullptr;
    const auto expected = EngineHarness(host).GenerateAll(requests);
    joined_ = 0;
    EngineHarness harness(Options(tp));
    ASSERT_TRUE(harness.status().ok()) << harness.status();
    EXPECT_EQ(joined_, tp);
    EXPECT_EQ(harness.GenerateAll(requests), expected);
  }
  EXPECT_EQ(fake_.destroys(), 2 + 3 + 4);
  EXPECT_EQ(fake_.aborts(), 0);
}

TEST_F(DeviceGroupTest, ACollectiveThatHangsFailsTheReplica) {
  ExpectFailure(3, 1, {.hang_at = 0}, "has not finished|is stalled");
  EXPECT_EQ(fake_.aborts(), 3);
}

TEST_F(DeviceGroupTest, AnErrorFoundLaterFailsTheReplica) {
  ExpectFailure(2, 1, {.late_error_at = 0}, "rank 1: NCCL failed in .*remote process exited");
  EXPECT_EQ(fake_.aborts(), 2);
}

TEST_F(DeviceGroupTest, AnErrorOfTheLeaderFailsTheReplica) {
  ExpectFailure(2, 0, {.fail_at = 0}, "rank 0: NCCL failed in .*unhandled cuda error");
  EXPECT_EQ(fake_.aborts(), 2);
}

TEST_F(DeviceGroupTest, ACallThatDoesNotReturnFailsTheReplica) {
  ExpectFailure(2, 1, {.block_at = 0}, "has not finished|is stalled");
  EXPECT_EQ(fake_.aborts(), 2);
}

TEST_F(DeviceGroupTest, ARankThatCannotJoinIsAnErrorOfTheStart) {
  fake_.SetFaults(1, {.hang_in_join = true});
  EngineOptions options = Options(2);
  options.step_timeout = absl::Milliseconds(300);
  const absl::Status status = EngineHarness(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("NCCL has not finished joining"));
}

TEST_F(DeviceGroupTest, WithoutTheLibraryTheStartSaysWhatToInstall) {
  no_library_ = absl::FailedPreconditionError("install it");
  EXPECT_EQ(EngineHarness(Options(2)).status(), no_library_);
  EXPECT_EQ(EngineHarness(Options(1)).status(), absl::OkStatus());  // one GPU needs none
  EXPECT_EQ(fake_.joins(), 0);
}

}  // namespace
}  // namespace qwenserve
