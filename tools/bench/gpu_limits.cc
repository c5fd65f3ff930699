#include "tools/bench/gpu_limits.h"

#include <chrono>
#include <memory>

#include "absl/time/time.h"
#include "engine/base/status_macros.h"
#include "kernels/cuda/runtime/copy_kernel.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

absl::StatusOr<std::vector<double>> GpuCopyPasses(int index) {
  constexpr size_t kBytes = size_t{512} << 20;
  constexpr int kPasses = 8, kCopiesPerPass = 16;
  constexpr uint32_t kBlocksPerSm = 8;
  using Clock = std::chrono::steady_clock;

  QS_ASSIGN_OR_RETURN(const std::unique_ptr<GpuDevice> device, MakeCudaDevice(index));
  QS_ASSIGN_OR_RETURN(const Buffer from, AllocateGpuBuffer(*device, kBytes));
  QS_ASSIGN_OR_RETURN(const Buffer to, AllocateGpuBuffer(*device, kBytes));
  const GpuKernel kernel = on_cuda::GetCopyKernel();
  LaunchShape shape;
  shape.grid_x = static_cast<uint32_t>(device->properties().num_sms) * kBlocksPerSm;
  const CopyArgs args = {from.data(), to.data(), static_cast<int64_t>(kBytes / 16)};
  std::vector<double> passes;
  for (int pass = -1; pass < kPasses; ++pass) {  // the first one warms up
    QS_RETURN_IF_ERROR(device->Synchronize(absl::Seconds(60)));
    const Clock::time_point began = Clock::now();
    for (int i = 0; i < kCopiesPerPass; ++i) device->Launch(kernel, shape, args);
    QS_RETURN_IF_ERROR(device->Synchronize(absl::Seconds(60)));
    const std::chrono::duration<double> took = Clock::now() - began;
    if (pass >= 0) passes.push_back(2.0 * kBytes * kCopiesPerPass / took.count());
  }
  return passes;
}

}  // namespace qwenserve
