#include "kernels/cuda/graph_cache.h"

#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "kernels/cuda/runtime/simt_faults.h"
#include "tests/kernels/cuda/sample_kernels.h"

namespace qwenserve {
namespace {

// One kernel, which sums what the memory holds when it runs.
class GraphCacheTest : public testing::Test {
 protected:
  absl::Status Run(uint64_t key) {
    return cache_.Run(key, [this] {
      ++issued_;
      device_->Launch(on_simt::GetSampleKernels().block_sum,
                      {.grid_x = 1, .shared_bytes = 4 * sizeof(int32_t)},
                      BlockSumArgs{values_.as<int32_t>(), 4, sum_.as<int32_t>()});
      return issue_status_;
    });
  }
  int32_t SumOf(std::vector<int32_t> values, uint64_t key) {
    device_->CopyToDevice(values_.data(), values.data(), 16, GpuStream::kCompute);
    EXPECT_TRUE(Run(key).ok());
    int32_t sum = 0;
    device_->CopyToHost(&sum, sum_.data(), sizeof sum, GpuStream::kCompute);
    return sum;
  }

  std::shared_ptr<SimtFaults> faults_ = std::make_shared<SimtFaults>();
  std::unique_ptr<GpuDevice> device_ = MakeSimtDevice(1, faults_);
  Buffer values_ = *AllocateGpuBuffer(*device_, 16), sum_ = *AllocateGpuBuffer(*device_, 4);
  std::vector<std::string> warnings_;
  GraphCache cache_{*device_, 3, [this](absl::string_view text) { warnings_.emplace_back(text); }};
  int issued_ = 0;
  absl::Status issue_status_;
};

TEST_F(GraphCacheTest, IssuesOnceRecordsOnceAndLaunchesFromThenOnOverWhatTheMemoryHolds) {
  EXPECT_EQ(SumOf({1, 2, 3, 4}, 7), 10);
  EXPECT_EQ(faults_->graph_launches(), 0);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(SumOf({i, 0, 0, 100}, 7), 100 + i);
  EXPECT_EQ(issued_, 2);
  EXPECT_EQ(faults_->graph_launches(), 5);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(GraphCacheTest, RemembersTheKeysLastUsed) {
  for (uint64_t key : {1, 2, 3, 1, 2, 3}) EXPECT_EQ(SumOf({1, 1, 1, 1}, key), 4);
  EXPECT_EQ(issued_, 6);
  EXPECT_EQ(SumOf({1, 1, 1, 2}, 1), 5);  // 2 is now the oldest
  EXPECT_EQ(SumOf({1, 1, 1, 3}, 4), 6);
  EXPECT_EQ(issued_, 7);
  EXPECT_EQ(cache_.size(), 3u);
  EXPECT_EQ(SumOf({1, 1, 1, 4}, 1), 7);
  EXPECT_EQ(SumOf({1, 1, 1, 5}, 3), 8);
  EXPECT_EQ(issued_, 7);
  EXPECT_EQ(SumOf({1, 1, 1, 6}, 2), 9);
  EXPECT_EQ(issued_, 8);
}

TEST_F(GraphCacheTest, AfterAFailedRecordingAllIsIssuedOpByOpAndSaidOnce) {
  faults_->FailCaptures();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(SumOf({i, 1, 1, 1}, 7), 3 + i);
  EXPECT_EQ(SumOf({1, 1, 1, 1}, 8), 4);
  EXPECT_EQ(SumOf({1, 1, 1, 2}, 8), 5);
  EXPECT_EQ(faults_->graph_launches(), 0);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("the capture failed"), std::string::npos);
}

TEST_F(GraphCacheTest, TheErrorOfTheOpsComesBackAndLeavesNoGraph) {
  EXPECT_EQ(SumOf({1, 1, 1, 1}, 7), 4);
  issue_status_ = absl::AbortedError("a peer is gone");
  EXPECT_EQ(Run(7), issue_status_);
  issue_status_ = absl::OkStatus();
  EXPECT_FALSE(cache_.recording());
  EXPECT_EQ(SumOf({1, 1, 1, 2}, 7), 5);
  EXPECT_EQ(issued_, 3);
}

TEST_F(GraphCacheTest, NothingIsRecordedAfterADeviceError) {
  EXPECT_EQ(SumOf({1, 1, 1, 1}, 7), 4);
  faults_->FailAfter(0, absl::UnavailableError("an illegal address"));
  EXPECT_TRUE(Run(7).ok());
  EXPECT_TRUE(Run(7).ok());
  EXPECT_EQ(issued_, 3);
  EXPECT_EQ(faults_->graph_launches(), 0);
  EXPECT_TRUE(warnings_.empty());
}

}  // namespace
}  // namespace qwenserve
