#include "tests/kernels/cuda/attention/gpu_attention_harness.h"

namespace qwenserve {

absl::StatusOr<GpuUnderTest> MakeGpuUnderTest(const std::string& name, uint64_t seed) {
  if (name == "simt") {
    return GpuUnderTest{MakeSimtDevice(seed), on_simt::GetAttentionKernels()};
  }
#ifdef QS_WITH_CUDA
  auto device = MakeCudaDevice(0);
  if (!device.ok()) return device.status();
  return GpuUnderTest{*std::move(device), on_cuda::GetAttentionKernels()};
#else
  return absl::NotFoundError("this build is without CUDA");
#endif
}

}  // namespace qwenserve
