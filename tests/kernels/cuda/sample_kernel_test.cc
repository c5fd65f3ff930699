// One kernel through both compilers and both devices.
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <vector>

#include "kernels/cuda/runtime/gpu_device.h"
#include "tests/kernels/cuda/sample_kernels.h"

namespace qwenserve {
namespace {

void ExpectSums(GpuDevice& device, const SampleKernels& kernels) {
  constexpr int kBlocks = 5, kCount = 1000;
  std::vector<int32_t> values(kBlocks * kCount);
  std::iota(values.begin(), values.end(), -700);
  const size_t bytes = values.size() * sizeof(int32_t);
  void* in = device.Allocate(bytes).value();
  void* out = device.Allocate(kBlocks * sizeof(int32_t)).value();
  device.CopyToDevice(in, values.data(), bytes, GpuStream::kCompute);
  device.Launch(kernels.block_sum, {.grid_x = kBlocks, .shared_bytes = 4 * sizeof(int32_t)},
                BlockSumArgs{static_cast<const int32_t*>(in), kCount, static_cast<int32_t*>(out)});
  std::vector<int32_t> sums(kBlocks);
  device.CopyToHost(sums.data(), out, kBlocks * sizeof(int32_t), GpuStream::kCompute);
  ASSERT_TRUE(device.Synchronize(absl::Seconds(10)).ok());
  for (int b = 0; b < kBlocks; ++b) {
    const auto begin = values.begin() + b * kCount;
    EXPECT_EQ(sums[b], std::accumulate(begin, begin + kCount, 0)) << b;
  }
  device.Free(in);
  device.Free(out);
}

TEST(SampleKernelTest, OnTheEmulation) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    ExpectSums(*MakeSimtDevice(seed), on_simt::GetSampleKernels());
  }
}

#ifdef QS_WITH_CUDA
TEST(SampleKernelTest, OnAGpu) {
  // Links the kernel that nvcc compiled, with or without a GPU to run it.
  const SampleKernels kernels = on_cuda::GetSampleKernels();
  EXPECT_STREQ(kernels.block_sum.name, "block_sum");
  auto device = MakeCudaDevice(0);
  if (absl::IsNotFound(device.status())) GTEST_SKIP() << device.status().message();
  ASSERT_TRUE(device.ok()) << device.status();
  ExpectSums(**device, kernels);
}
#endif

}  // namespace
}  // namespace qwenserve
