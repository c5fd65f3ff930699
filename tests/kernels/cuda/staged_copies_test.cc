#include "kernels/cuda/staged_copies.h"

#include <cstring>
#include <numeric>

#include "gtest/gtest.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "kernels/cuda/runtime/simt_faults.h"

namespace qwenserve {
namespace {

constexpr size_t kPart = 256;

class StagedCopiesTest : public testing::Test {
 protected:
  StagedCopiesTest() { EXPECT_TRUE(copies_.Init().ok()); }

  std::shared_ptr<SimtFaults> faults_ = std::make_shared<SimtFaults>();
  std::unique_ptr<GpuDevice> device_ = MakeSimtDevice(1, faults_);
  StagedCopies copies_{*device_, kPart, absl::Milliseconds(20)};
};

TEST_F(StagedCopiesTest, AnySizeGoesThereAndBackThroughASmallRing) {
  std::vector<uint8_t> sent(5000);
  std::iota(sent.begin(), sent.end(), 0);
  const Buffer memory = *AllocateGpuBuffer(*device_, sent.size());
  for (size_t bytes : {0, 1, 63, 64, 255, 256, 257, 1024, 1025, 5000}) {
    std::vector<uint8_t> source(sent.begin(), sent.begin() + bytes), back(bytes + 1, 0xee);
    ASSERT_TRUE(copies_.ToDevice(source.data(), bytes, memory.data()).ok());
    source.assign(bytes, 0);  // may go at once
    ASSERT_TRUE(copies_.ToHost(memory.data(), bytes, back.data()).ok());
    EXPECT_EQ(std::memcmp(back.data(), sent.data(), bytes), 0) << bytes;
    EXPECT_EQ(back[bytes], 0xee);
  }
}

TEST_F(StagedCopiesTest, ManySmallCopiesKeepTheirOrder) {
  const Buffer memory = *AllocateGpuBuffer(*device_, sizeof(int));
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(copies_.ToDevice(&i, sizeof i, memory.data()).ok());
    if (i % 37 != 0) continue;
    int back = -1;
    ASSERT_TRUE(copies_.ToHost(memory.data(), sizeof back, &back).ok());
    EXPECT_EQ(back, i);
  }
}

TEST_F(StagedCopiesTest, ADeviceThatHangsEndsInTimeAndLeavesTheHostAsItWas) {
  const Buffer memory = *AllocateGpuBuffer(*device_, 64);
  faults_->Hang();
  char back[64];
  std::memset(back, 0x55, sizeof back);
  EXPECT_EQ(copies_.ToHost(memory.data(), 64, back).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(back[0], 0x55);
  faults_->Resume();
}

TEST_F(StagedCopiesTest, AFullRingWaitsForTheDeviceAndSaysSoWhenThatHangs) {
  const std::vector<char> data(16 * kPart);
  const Buffer memory = *AllocateGpuBuffer(*device_, data.size());
  faults_->Hang();
  // Less than the ring needs no answer.
  EXPECT_TRUE(copies_.ToDevice(data.data(), 4 * kPart, memory.data()).ok());
  EXPECT_EQ(copies_.ToDevice(data.data(), data.size(), memory.data()).code(),
            absl::StatusCode::kDeadlineExceeded);
  faults_->Resume();
}

TEST(StagedCopiesMemoryTest, NoPinnedMemoryIsAnErrorWithTheSize) {
  auto faults = std::make_shared<SimtFaults>();
  faults->SetTotalPinned(100);
  const std::unique_ptr<GpuDevice> device = MakeSimtDevice(1, faults);
  StagedCopies copies(*device, kPart, absl::Seconds(1));
  const absl::Status status = copies.Init();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("1024"), absl::string_view::npos) << status;
}

}  // namespace
}  // namespace qwenserve
