#include "kernels/cpu/host_memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

// Of this process, in bytes.
int64_t AnonymousMemory() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string word; file >> word;) {
    if (word != "Anonymous:") continue;
    int64_t kilobytes = 0;
    file >> kilobytes;
    return kilobytes * 1024;
  }
  return -1;
}

constexpr size_t kSizes[] = {1,       64,      65,      (64 << 10) - 1, 64 << 10,
                             1000001, 2 << 20, 2300000, 30 << 20,       33 << 20};

TEST(HostMemoryTest, ComesZeroedAlignedAndApart) {
  // A second round may not see what the first has left.
  for (int round = 0; round < 2; ++round) {
    std::vector<Buffer> buffers;
    for (size_t size : kSizes) {
      buffers.push_back(*AllocateHostMemory(size));
      const Buffer& buffer = buffers.back();
      ASSERT_EQ(buffer.bytes(), size);
      ASSERT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
      const char* bytes = buffer.as<char>();
      ASSERT_TRUE(std::all_of(bytes, bytes + size, [](char c) { return c == 0; }));
      std::memset(buffer.data(), static_cast<int>(buffers.size()), size);
    }
    for (size_t i = 0; i < buffers.size(); ++i) {
      const char* bytes = buffers[i].as<char>();
      const auto expected = static_cast<char>(i + 1);
      ASSERT_TRUE(
          std::all_of(bytes, bytes + buffers[i].bytes(), [=](char c) { return c == expected; }));
      if (i % 2 == 0) buffers[i] = Buffer();  // the others stay as they are
    }
  }
}

TEST(HostMemoryTest, HoldsLittleMoreThanWasAskedForAndGivesItBack) {
  const int64_t before = AnonymousMemory();
  if (before < 0) GTEST_SKIP() << "no /proc/self/smaps_rollup";
  constexpr size_t kSize = 2200000;
  constexpr int kCount = 40;
  std::vector<Buffer> buffers;
  for (int i = 0; i < kCount; ++i) {
    buffers.push_back(*AllocateHostMemory(kSize));
    std::memset(buffers.back().data(), 1, kSize);
  }
  const int64_t all = static_cast<int64_t>(kSize) * kCount;
  EXPECT_GE(AnonymousMemory() - before, all);
  EXPECT_LE(AnonymousMemory() - before, all + (int64_t{8} << 20));
  buffers.clear();
  EXPECT_LE(AnonymousMemory() - before, int64_t{8} << 20);
}

// A limit on addresses must refuse what does not fit, not what would fit without its neighbours.
TEST(HostMemoryTest, APieceNeedsNoRoomForAWholeRegion) {
  std::ifstream file("/proc/self/statm");
  rlim_t pages = 0;
  if (!(file >> pages)) GTEST_SKIP() << "no /proc/self/statm";
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  rlimit small = before;
  small.rlim_cur = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (16 << 20);
  ASSERT_EQ(setrlimit(RLIMIT_AS, &small), 0);
  const auto piece = AllocateHostMemory(100 << 10);
  const auto large = AllocateHostMemory(20 << 20);
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_TRUE(piece.ok()) << piece.status();
  EXPECT_EQ(large.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(HostMemoryTest, SaysHowMuchIsTooMuch) {
  const auto buffer = AllocateHostMemory(SIZE_MAX / 2);
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(buffer.status().message().find(std::to_string(SIZE_MAX / 2)), std::string::npos);
}

}  // namespace
}  // namespace qwenserve
