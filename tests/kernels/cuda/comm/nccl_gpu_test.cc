// The collectives over the real NCCL, with two rank processes on one GPU. NCCL refuses a GPU that
// appears twice in a group; it tells GPUs apart by host and bus, and takes a process of another
// NCCL_HOSTID for one on another host, so the two meet over sockets on the loopback interface. This
// shows the calls, their order on the stream, recording, and the process form. It shows neither
// NVLink nor the speed, nor ranks as threads of one process.
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/parallel/rank_group.h"
#include "gtest/gtest.h"
#include "kernels/cuda/comm/nccl_communicator.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "tests/kernels/cuda/installed.h"

namespace qwenserve {
namespace {

constexpr int kRanks = 2;
constexpr int kSharedFd = 3;
constexpr absl::Duration kPatience = absl::Seconds(90);

std::vector<float> RandomFloats(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value =
        std::ldexp(static_cast<float>(random()) / 4.0e9f - 0.5f, static_cast<int>(random() % 24));
  }
  return values;
}

std::vector<float> ExpectedSum(int64_t count, uint32_t seed) {
  std::vector<float> sum = RandomFloats(count, seed);
  const std::vector<float> other = RandomFloats(count, seed + 1);
  for (int64_t i = 0; i < count; ++i) sum[i] += other[i];
  return sum;
}

class RankProcess {
 public:
  RankProcess(GpuDevice& device, Communicator& communicator)
      : device_(device), communicator_(communicator) {}

  bool SumIsRight(int64_t count, uint32_t seed) {
    const Buffer buffer = Upload(RandomFloats(count, seed + communicator_.rank()));
    if (!communicator_.AllReduceSum(buffer.as<float>(), count).ok()) return false;
    return Holds(buffer, ExpectedSum(count, seed));
  }

  bool GatherIsRight(int64_t rows, int64_t width) {
    const Buffer mine = Upload(RandomFloats(rows * width, 7 + communicator_.rank()));
    const Buffer all = *AllocateGpuBuffer(device_, mine.bytes() * kRanks);
    if (!communicator_.AllGather(mine.as<float>(), rows, width, all.as<float>()).ok()) return false;
    std::vector<float> expected;
    const std::vector<float> parts[] = {RandomFloats(rows * width, 7),
                                        RandomFloats(rows * width, 8)};
    for (int64_t row = 0; row < rows; ++row) {
      for (const auto& part : parts) {
        expected.insert(expected.end(), part.begin() + row * width,
                        part.begin() + (row + 1) * width);
      }
    }
    return Holds(all, expected);
  }

  // Recorded once, launched twice: (a + b) and then twice that.
  bool RecordedSumIsRight(int64_t count) {
    const Buffer buffer = Upload(RandomFloats(count, 50 + communicator_.rank()));
    device_.BeginCapture();
    const absl::Status recorded = communicator_.AllReduceSum(buffer.as<float>(), count);
    const auto graph = device_.EndCapture();
    if (!recorded.ok() || !graph.ok()) return false;
    device_.LaunchGraph(**graph);
    device_.LaunchGraph(**graph);
    std::vector<float> expected = ExpectedSum(count, 50);
    for (float& value : expected) value += value;
    return Holds(buffer, expected);
  }

 private:
  Buffer Upload(const std::vector<float>& data) {
    Buffer buffer = *AllocateGpuBuffer(device_, data.size() * sizeof(float));
    device_.CopyToDevice(buffer.data(), data.data(), buffer.bytes(), GpuStream::kCompute);
    return buffer;
  }
  bool Holds(const Buffer& buffer, const std::vector<float>& expected) {
    std::vector<float> data(expected.size());
    device_.CopyToHost(data.data(), buffer.data(), data.size() * sizeof(float),
                       GpuStream::kCompute);
    if (!device_.Synchronize(kPatience).ok()) return false;
    return std::memcmp(data.data(), expected.data(), data.size() * sizeof(float)) == 0;
  }

  GpuDevice& device_;
  Communicator& communicator_;
};

// The exit status says what failed.
int RunRank(int rank) {
  auto group = RankGroup::Attach(kSharedFd);
  auto device = MakeCudaDevice(0);
  if (!group.ok() || !device.ok()) return 10;
  if (rank == 0) {
    const auto id = NewNcclGroup(NcclForTests());
    if (!id.ok()) return 11;
    (*group)->SetDeviceGroupId(*id);
  }
  DeviceGroup devices;
  devices.id = *(*group)->WaitForDeviceGroupId();
  devices.library = NcclForTests();
  devices.rank = rank;
  devices.size = kRanks;
  devices.timeout = kPatience;
  devices.max_sum = 1 << 20;
  devices.health = [&group] { return (*group)->Health(); };
  auto joined = JoinNcclGroup(**device, on_cuda::GetCommKernels(), devices);
  if (!joined.ok()) {
    std::fprintf(stderr, "%s\n", joined.status().ToString().c_str());
    return 12;
  }
  RankProcess test(**device, **joined);
  for (int64_t count : {1, 17, 8192, 65536, 300007}) {
    if (!test.SumIsRight(count, static_cast<uint32_t>(count))) return 20;
  }
  if (!test.GatherIsRight(1, 1000) || !test.GatherIsRight(64, 129)) return 21;
  if (!test.RecordedSumIsRight(8192)) return 22;
  return (*joined)->Health().ok() ? 0 : 23;
}

pid_t StartRank(int rank, int shared_fd) {
  const std::string number = std::to_string(rank);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  dup2(shared_fd, kSharedFd);
  setenv("NCCL_HOSTID", ("qwenserve-test-" + number).c_str(), 1);
  setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  execl("/proc/self/exe", "nccl_gpu_test", "--rank", number.c_str(), nullptr);
  _exit(127);
}

TEST(NcclOnOneGpu, TwoProcessesSumGatherAndRecord) {
  const absl::Status gpus = CountCudaDevices().status();
  if (absl::IsNotFound(gpus)) GTEST_SKIP() << "needs a GPU: " << gpus.message();
  ASSERT_TRUE(gpus.ok()) << gpus;
  if (!HasNccl()) GTEST_SKIP() << "no NCCL on this machine";
  auto group = RankGroup::Create(kRanks);
  ASSERT_TRUE(group.ok());
  std::vector<pid_t> ranks;
  for (int r = 0; r < kRanks; ++r) ranks.push_back(StartRank(r, (*group)->fd()));
  for (int r = 0; r < kRanks; ++r) {
    int status = 0;
    ASSERT_EQ(waitpid(ranks[r], &status, 0), ranks[r]);
    EXPECT_EQ(status, 0) << "rank " << r << ": exit status " << WEXITSTATUS(status);
    if (status != 0) (*group)->Abort("a rank of the test failed");
  }
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "--rank") == 0) {
    return qwenserve::RunRank(std::atoi(argv[2]));
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
