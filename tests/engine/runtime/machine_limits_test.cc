#include "engine/runtime/machine_limits.h"

#include <sched.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

// A /proc and /sys of our own.
class MachineLimitsTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/machine_limits";
    std::filesystem::remove_all(root_);
    Write("/proc/meminfo", "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n");
  }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  std::string root_;
};

TEST_F(MachineLimitsTest, WithoutGroupsTheMachineIsTheLimit) {
  const MemoryLimits memory = ReadMemoryLimits(root_);
  EXPECT_EQ(memory.available, int64_t{8000000} * 1024);
  EXPECT_EQ(memory.reason, "MemAvailable");
  const CpuLimits cpu = ReadCpuLimits(root_);
  EXPECT_EQ(cpu.quota, 0);
  EXPECT_EQ(cpu.usable(), static_cast<int>(cpu.allowed.size()));
}

TEST_F(MachineLimitsTest, TheSmallestLimitOnTheWayUpCounts) {
  Write("/proc/self/cgroup", "0::/pod/container\n");
  Write("/sys/fs/cgroup/pod/container/cpu.max", "max 100000\n");
  Write("/sys/fs/cgroup/pod/cpu.max", "250000 100000\n");
  Write("/sys/fs/cgroup/cpu.max", "400000 100000\n");
  Write("/sys/fs/cgroup/pod/container/memory.max", "2000000000\n");
  Write("/sys/fs/cgroup/pod/container/memory.current", "900000000\n");
  Write("/sys/fs/cgroup/pod/container/memory.stat", "anon 1\ninactive_file 400000000\n");
  Write("/sys/fs/cgroup/pod/memory.max", "max\n");
  EXPECT_EQ(ReadCpuLimits(root_).quota, 2.5);
  const MemoryLimits memory = ReadMemoryLimits(root_);
  EXPECT_EQ(memory.available, 2000000000 - (900000000 - 400000000));
  EXPECT_THAT(memory.reason, HasSubstr("cgroup limit of 2000000000"));
}

TEST_F(MachineLimitsTest, AContainerThatSeesItsGroupAsTheRoot) {
  Write("/proc/self/cgroup", "0::/outside/name\n");
  Write("/sys/fs/cgroup/cpu.max", "150000 100000\n");
  Write("/sys/fs/cgroup/memory.max", "1000000\n");
  Write("/sys/fs/cgroup/memory.current", "2000000\n");
  EXPECT_EQ(ReadCpuLimits(root_).quota, 1.5);
  EXPECT_EQ(ReadMemoryLimits(root_).available, 0);
}

TEST_F(MachineLimitsTest, VersionOne) {
  Write("/proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n");
  Write("/sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "300000\n");
  Write("/sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "3000000000\n");
  Write("/sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "1000000000\n");
  Write("/sys/fs/cgroup/memory/docker/x/memory.stat", "total_inactive_file 0\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(ReadCpuLimits(root_).quota, 3);
  EXPECT_EQ(ReadMemoryLimits(root_).available, 2000000000);
}

TEST_F(MachineLimitsTest, WithoutMeminfoTheSmallestGroupStillCounts) {
  Write("/proc/meminfo", "nothing\n");
  EXPECT_EQ(ReadMemoryLimits(root_).available, 0);
  Write("/proc/self/cgroup", "0::/pod/container\n");
  Write("/sys/fs/cgroup/pod/container/memory.max", "1000000\n");
  Write("/sys/fs/cgroup/pod/memory.max", "2000000\n");
  EXPECT_EQ(ReadMemoryLimits(root_).available, 1000000);
}

TEST(CpuLimits, WholeCoresOfTheSmallerLimit) {
  CpuLimits limits;
  limits.allowed = {0, 1, 2, 3};
  limits.machine = 8;
  EXPECT_EQ(limits.usable(), 4);
  EXPECT_TRUE(limits.is_share());
  limits.quota = 1e18;
  EXPECT_EQ(limits.usable(), 4);
  limits.quota = 2.9;
  EXPECT_EQ(limits.usable(), 2);
  limits.quota = 0.5;
  EXPECT_EQ(limits.usable(), 1);
  limits.machine = 4;
  EXPECT_FALSE(limits.is_share());
}

TEST(CpuLimits, ObeysAffinity) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  const int cpu = ReadCpuLimits().allowed.back();
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_THAT(ReadCpuLimits().allowed, testing::ElementsAre(cpu));
  sched_setaffinity(0, sizeof(before), &before);
}

}  // namespace
}  // namespace qwenserve
