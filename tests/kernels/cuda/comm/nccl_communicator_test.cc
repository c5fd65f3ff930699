// What the collectives compute, over emulated GPUs and the fake NCCL: the bits of the collectives
// in host memory.
#include "kernels/cuda/comm/nccl_communicator.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "engine/parallel/group_communicator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "tests/kernels/cuda/comm/fake_nccl.h"
#include "tests/kernels/virtual_clock.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMaxSum = 100000;

// Values of very different sizes, so that another order of additions gives other bits.
std::vector<float> RandomFloats(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value =
        std::ldexp(static_cast<float>(random()) / 4.0e9f - 0.5f, static_cast<int>(random() % 24));
  }
  return values;
}

// One rank: an emulated GPU and what it has joined.
class Rank {
 public:
  Rank(const NcclApi& api, DeviceGroup group) : device_(MakeSimtDevice(group.rank + 1)) {
    auto joined = JoinNcclGroup(api, *device_, on_simt::GetCommKernels(), group, clock_);
    status_ = joined.status();
    if (joined.ok()) communicator_ = *std::move(joined);
  }

  const absl::Status& status() const { return status_; }
  Communicator& communicator() { return *communicator_; }
  GpuDevice& device() { return *device_; }

  std::vector<float> Sum(std::vector<float> data) {
    const Buffer buffer = Upload(data);
    Note(communicator_->AllReduceSum(buffer.as<float>(), static_cast<int64_t>(data.size())));
    return Download(buffer, data.size());
  }
  std::vector<float> Gather(const std::vector<float>& mine, int64_t rows, int64_t width) {
    const Buffer from = Upload(mine);
    const size_t all = mine.size() * communicator_->size();
    const Buffer to = *AllocateGpuBuffer(*device_, all * sizeof(float));
    Note(communicator_->AllGather(from.as<float>(), rows, width, to.as<float>()));
    return Download(to, all);
  }

 private:
  void Note(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }
  Buffer Upload(const std::vector<float>& data) {
    Buffer buffer = *AllocateGpuBuffer(*device_, data.size() * sizeof(float));
    device_->CopyToDevice(buffer.data(), data.data(), buffer.bytes(), GpuStream::kCompute);
    return buffer;
  }
  std::vector<float> Download(const Buffer& buffer, size_t count) {
    std::vector<float> data(count);
    device_->CopyToHost(data.data(), buffer.data(), count * sizeof(float), GpuStream::kCompute);
    return data;
  }

  VirtualClock clock_;
  std::unique_ptr<GpuDevice> device_;
  std::unique_ptr<Communicator> communicator_;
  absl::Status status_;
};

void RunRanks(const NcclApi& api, int size, const std::function<void(Rank&, int)>& body) {
  DeviceGroup group;
  group.id = *NewNcclGroup(api);
  group.size = size;
  group.timeout = absl::Hours(1);
  group.max_sum = kMaxSum;
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    group.rank = r;
    threads.emplace_back([&body, &api, group] {
      Rank rank(api, group);
      ASSERT_TRUE(rank.status().ok()) << rank.status();
      body(rank, group.rank);
      EXPECT_TRUE(rank.status().ok()) << rank.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Short and long, around the limit of slices, longer than a piece, none a multiple of a slice.
const std::vector<int64_t> kCounts = {1, 17, 896, 65535, 65536, 70001, 300007};

std::vector<std::vector<float>> HostSums(int size) {
  auto group = *RankGroup::Create(size);
  std::vector<std::vector<float>> sums;
  for (int64_t count : kCounts) sums.push_back(RandomFloats(count, 100 * size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      auto communicator = MakeGroupCommunicator(group, r, absl::Seconds(60));
      for (size_t i = 0; i < kCounts.size(); ++i) {
        std::vector<float> data = RandomFloats(kCounts[i], 100 * size + r);
        ASSERT_TRUE(communicator->AllReduceSum(data.data(), kCounts[i]).ok());
        if (r == 0) sums[i] = std::move(data);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return sums;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Setting {
  int size;
  bool windows;
  int polls;
};

class NcclCommunicatorTest : public testing::TestWithParam<Setting> {
 protected:
  NcclCommunicatorTest() {
    for (int r = 0; r < GetParam().size; ++r) fake_.SetFaults(r, {.polls = r * GetParam().polls});
  }
  NcclApi Api() const { return GetParam().windows ? fake_.api() : fake_.api_without_windows(); }

  FakeNccl fake_;
};

TEST_P(NcclCommunicatorTest, SumsHaveTheBitsOfSumsInHostMemory) {
  const int size = GetParam().size;
  const auto expected = HostSums(size);
  RunRanks(Api(), size, [&](Rank& rank, int r) {
    for (size_t i = 0; i < kCounts.size(); ++i) {
      EXPECT_TRUE(SameBits(rank.Sum(RandomFloats(kCounts[i], 100 * size + r)), expected[i]))
          << kCounts[i] << " floats on rank " << r;
    }
  });
  EXPECT_EQ(fake_.destroys(), size);
  EXPECT_EQ(fake_.aborts(), 0);
  EXPECT_EQ(fake_.windows(), 0);
}

TEST_P(NcclCommunicatorTest, GathersRowsSideBySide) {
  const int size = GetParam().size;
  // One row; rows that go through scratch memory; rows that do not fit there.
  const std::vector<std::pair<int64_t, int64_t>> shapes = {{1, 1000}, {64, 129}, {3, 70001}};
  RunRanks(Api(), size, [&](Rank& rank, int r) {
    for (auto [rows, width] : shapes) {
      const auto all = rank.Gather(RandomFloats(rows * width, 7 + r), rows, width);
      for (int peer = 0; peer < size; ++peer) {
        const auto part = RandomFloats(rows * width, 7 + peer);
        for (int64_t row = 0; row < rows; ++row) {
          ASSERT_EQ(0, std::memcmp(&all[(row * size + peer) * width], &part[row * width],
                                   width * sizeof(float)))
              << "row " << row << " of rank " << peer << " on rank " << r;
        }
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Groups, NcclCommunicatorTest,
                         testing::Values(Setting{2, true, 0}, Setting{3, true, 3},
                                         Setting{4, true, 50}, Setting{2, false, 7},
                                         Setting{3, false, 0}, Setting{8, false, 1}),
                         [](const auto& info) {
                           return absl::StrCat("Of", info.param.size,
                                               info.param.windows ? "InWindows" : "Plain",
                                               info.param.polls);
                         });

TEST(SumPlan, SlicesCoverTheSumAndFitTheScratchMemory) {
  for (int size : {2, 3, 4, 5, 7, 8, 16, 64}) {
    for (int64_t max_sum : {int64_t{1}, int64_t{70000}, int64_t{16} << 20}) {
      const int64_t scratch = ScratchFloats(size, max_sum);
      for (int64_t count : {int64_t{1}, kSumSlicesFrom - 1, kSumSlicesFrom, kSumSlicesFrom + 1,
                            scratch - 4 * size - 1, scratch - 4 * size}) {
        const SumPlan plan = PlanSum(size, count);
        EXPECT_LE(plan.scratch, scratch) << size << " ranks, " << count;
        if (plan.way != SumWay::kSlices) continue;
        EXPECT_GE(plan.slice * size, count);
        EXPECT_EQ(plan.slice % 4, 0);
      }
    }
  }
}

TEST(NcclWindows, OneRankWithoutThemIsEnoughForPlainMemory) {
  FakeNccl fake;
  fake.SetFaults(1, {.no_symmetric_memory = true});
  RunRanks(fake.api(), 3, [&](Rank& rank, int) {
    EXPECT_EQ(fake.windows(), 0);
    EXPECT_EQ(rank.Sum({1, 2}), std::vector<float>({3, 6}));
  });
}

TEST(NcclWindows, GpusThatCannotHaveThemUsePlainMemory) {
  FakeNccl fake;
  for (int r = 0; r < 3; ++r) fake.SetFaults(r, {.windows_unsupported = true});
  RunRanks(fake.api(), 3, [&](Rank& rank, int) {
    EXPECT_EQ(fake.windows(), 0);
    EXPECT_EQ(rank.Sum({1, 2}), std::vector<float>({3, 6}));
  });
}

TEST(NcclWindows, AreUsedByDefault) {
  FakeNccl fake;
  RunRanks(fake.api(), 3, [&](Rank& rank, int) {
    EXPECT_EQ(rank.Sum({1, 2}), std::vector<float>({3, 6}));
    EXPECT_GT(fake.windows(), 0);
    EXPECT_EQ(rank.Sum({1, 2}), std::vector<float>({3, 6}));
  });
}

TEST(JoinNcclGroup, RefusesAnotherVersionThanRank0) {
  FakeNccl fake;
  DeviceGroup group;
  group.id = *NewNcclGroup(fake.api());
  group.rank = 1;
  group.size = 2;
  fake.SetVersion(22105);
  const Rank rank(fake.api(), group);
  EXPECT_EQ(rank.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(rank.status().message()),
              testing::AllOf(HasSubstr("rank 1 has NCCL 2.21.5"), HasSubstr("rank 0 has 2.28.9")));
  EXPECT_EQ(fake.joins(), 0);
}

TEST(JoinNcclGroup, RefusesAnIdentityOfAnotherKind) {
  FakeNccl fake;
  DeviceGroup group;
  group.id = "short";
  group.size = 2;
  EXPECT_EQ(Rank(fake.api(), group).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace qwenserve
