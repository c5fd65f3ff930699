#include "engine/parallel/group_communicator.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatient = absl::Seconds(60);

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

// What every rank must get, computed without the class under test.
std::vector<float> ExpectedSum(int size, int64_t count, uint32_t seed) {
  std::vector<float> sum = RandomFloats(count, seed);
  for (int r = 1; r < size; ++r) {
    const std::vector<float> part = RandomFloats(count, seed + r);
    for (int64_t i = 0; i < count; ++i) sum[i] += part[i];
  }
  return sum;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Short, long, longer than a slot, and none that is a multiple of a slice.
const std::vector<int64_t> kCounts = {1, 17, 896, 16383, 16384, 70001, 300007, 1};

// Every rank's part of the test; false at the first wrong bit.
bool SumsAreExact(const std::shared_ptr<RankGroup>& group, int rank) {
  auto communicator = MakeGroupCommunicator(group, rank, kPatient);
  uint32_t seed = 1;
  for (int64_t count : kCounts) {
    std::vector<float> data = RandomFloats(count, seed + rank);
    if (!communicator->AllReduceSum(data.data(), count).ok()) return false;
    if (!SameBits(data, ExpectedSum(group->size(), count, seed))) return false;
    seed += 100;
  }
  return true;
}

bool GathersAreExact(const std::shared_ptr<RankGroup>& group, int rank) {
  auto communicator = MakeGroupCommunicator(group, rank, kPatient);
  const int size = group->size();
  for (auto [rows, width] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 1000}, {2, 300007}}) {
    const std::vector<float> mine = RandomFloats(rows * width, 7 + rank);
    std::vector<float> all(rows * width * size);
    if (!communicator->AllGather(mine.data(), rows, width, all.data()).ok()) return false;
    for (int r = 0; r < size; ++r) {
      const std::vector<float> part = RandomFloats(rows * width, 7 + r);
      for (int64_t row = 0; row < rows; ++row) {
        if (std::memcmp(&all[(row * size + r) * width], &part[row * width],
                        width * sizeof(float)) != 0) {
          return false;
        }
      }
    }
  }
  return true;
}

using RankBody = std::function<bool(const std::shared_ptr<RankGroup>&, int rank)>;

void RunAsThreads(int size, const RankBody& body) {
  auto group = RankGroup::Create(size);
  ASSERT_TRUE(group.ok()) << group.status();
  std::vector<char> ok(size, 0);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] { ok[r] = body(*group, r); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int r = 0; r < size; ++r) EXPECT_TRUE(ok[r]) << "rank " << r;
}

// Every rank is a process that attaches to the group by its descriptor.
void RunAsProcesses(int size, const RankBody& body) {
  auto group = RankGroup::Create(size);
  ASSERT_TRUE(group.ok()) << group.status();
  std::vector<pid_t> children;
  for (int r = 0; r < size; ++r) {
    const pid_t pid = fork();
    if (pid == 0) {
      auto attached = RankGroup::Attach(dup((*group)->fd()));
      _exit(attached.ok() && body(*attached, r) ? 0 : 1);
    }
    children.push_back(pid);
  }
  for (int r = 0; r < size; ++r) {
    int status = -1;
    ASSERT_EQ(waitpid(children[r], &status, 0), children[r]);
    EXPECT_EQ(status, 0) << "rank " << r;
  }
}

class GroupCommunicatorTest : public testing::TestWithParam<int> {};

TEST_P(GroupCommunicatorTest, ThreadsSumInRankOrder) { RunAsThreads(GetParam(), SumsAreExact); }
TEST_P(GroupCommunicatorTest, ProcessesSumInRankOrder) { RunAsProcesses(GetParam(), SumsAreExact); }
TEST_P(GroupCommunicatorTest, ThreadsGather) { RunAsThreads(GetParam(), GathersAreExact); }
TEST_P(GroupCommunicatorTest, ProcessesGather) { RunAsProcesses(GetParam(), GathersAreExact); }

TEST_P(GroupCommunicatorTest, ManySmallSumsInARow) {
  RunAsThreads(GetParam(), [](const std::shared_ptr<RankGroup>& group, int rank) {
    auto communicator = MakeGroupCommunicator(group, rank, kPatient);
    for (int i = 0; i < 2000; ++i) {
      float data[3] = {static_cast<float>(i), static_cast<float>(rank), 1.0f};
      if (!communicator->AllReduceSum(data, 3).ok()) return false;
      const int n = group->size();
      if (data[0] != static_cast<float>(i * n) || data[1] != static_cast<float>(n * (n - 1) / 2) ||
          data[2] != static_cast<float>(n)) {
        return false;
      }
    }
    return true;
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, GroupCommunicatorTest, testing::Values(1, 2, 3, 4));

TEST(GroupFailure, APeerThatDoesNotComeIsAnErrorAndEndsTheGroup) {
  auto group = RankGroup::Create(2);
  ASSERT_TRUE(group.ok());
  auto communicator = MakeGroupCommunicator(*group, 0, absl::Milliseconds(50));
  float data = 1;
  const absl::Status late = communicator->AllReduceSum(&data, 1);
  EXPECT_EQ(late.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(late.message(), HasSubstr("rank 1 is stalled"));
  auto other = MakeGroupCommunicator(*group, 1, kPatient);
  EXPECT_EQ(other->AllReduceSum(&data, 1), late);
  EXPECT_EQ((*group)->WaitAll(RankGroup::Phase::kReady), late);
}

TEST(GroupFailure, AbortEndsAWaitThatHasNoEndOfItsOwn) {
  auto group = RankGroup::Create(2);
  ASSERT_TRUE(group.ok());
  absl::Status status;
  std::thread waiting([&] {
    auto communicator = MakeGroupCommunicator(*group, 0, absl::InfiniteDuration());
    float data = 1;
    status = communicator->AllReduceSum(&data, 1);
  });
  (*group)->Abort("rank 1 was killed");
  (*group)->Abort("a later reason");
  waiting.join();
  EXPECT_EQ(status, absl::UnavailableError("rank 1 was killed"));
}

TEST(GroupFailure, AbortReachesAnotherProcess) {
  auto group = RankGroup::Create(2);
  ASSERT_TRUE(group.ok());
  const pid_t pid = fork();
  if (pid == 0) {
    auto attached = RankGroup::Attach(dup((*group)->fd()));
    auto communicator = MakeGroupCommunicator(*attached, 1, absl::InfiniteDuration());
    float data = 1;
    _exit(communicator->AllReduceSum(&data, 1).code() == absl::StatusCode::kUnavailable ? 7 : 1);
  }
  (*group)->Abort("the leader has given up");
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(RankGroup, RefusesWhatIsNotAGroup) {
  EXPECT_EQ(RankGroup::Create(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RankGroup::Create(65).status().code(), absl::StatusCode::kInvalidArgument);
  FILE* file = tmpfile();
  EXPECT_EQ(RankGroup::Attach(dup(fileno(file))).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(ftruncate(fileno(file), 1 << 20), 0);
  EXPECT_EQ(RankGroup::Attach(dup(fileno(file))).status().code(),
            absl::StatusCode::kInvalidArgument);
  fclose(file);
}

TEST(RankGroup, ProgressIsSeenByTheOthers) {
  auto group = RankGroup::Create(2);
  ASSERT_TRUE(group.ok());
  auto other = RankGroup::Attach(dup((*group)->fd()));
  ASSERT_TRUE(other.ok());
  (*other)->BeginStep(1, 5);
  usleep(1000);
  EXPECT_GT((*group)->Progress(1).step_age, absl::ZeroDuration());
  (*other)->EndStep(1, 5);
  EXPECT_EQ((*group)->Progress(1).step, 5);
  EXPECT_EQ((*group)->Progress(1).step_age, absl::ZeroDuration());
  (*other)->AddCollectiveTime(1, absl::Milliseconds(2));
  (*other)->AddCollectiveTime(1, absl::Milliseconds(3));
  (*other)->SetDeviceMemory(1, 60, 100);
  EXPECT_EQ((*group)->Progress(1).collective_time, absl::Milliseconds(5));
  EXPECT_EQ((*group)->Progress(1).device_used, 60);
  EXPECT_EQ((*group)->Progress(1).device_total, 100);
  EXPECT_EQ((*group)->Progress(0).collective_time, absl::ZeroDuration());
}

TEST(RankGroup, TimeInCollectivesIsCounted) {
  auto group = RankGroup::Create(2);
  ASSERT_TRUE(group.ok());
  const auto sum = [&](int rank) {
    float value = 1;
    return MakeGroupCommunicator(*group, rank, kPatient)->AllReduceSum(&value, 1).ok();
  };
  std::thread other([&] { EXPECT_TRUE(sum(1)); });
  EXPECT_TRUE(sum(0));
  other.join();
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_GT((*group)->Progress(rank).collective_time, absl::ZeroDuration()) << rank;
  }
}

}  // namespace
}  // namespace qwenserve
