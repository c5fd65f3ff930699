#include "tests/kernels/cuda/attention/gpu_attention_harness.h"

namespace qwenserve {

GpuUnderTest MakeGpuUnderTest(const std::string& name, uint64_t seed) {
  if (name == "simt") return {MakeSimtDevice(seed), on_simt::GetAttentionKernels()};
#ifdef QS_WITH_CUDA
  auto device = MakeCudaDevice(0);
  if (device.ok()) return {*std::move(device), on_cuda::GetAttentionKernels()};
#endif
  return {};
}

}  // namespace qwenserve
