#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

absl::StatusOr<std::unique_ptr<GpuDevice>> MakeCudaDevice(int index) {
  (void)index;
  return absl::UnimplementedError("this build is without CUDA");
}

absl::StatusOr<int> CountCudaDevices() {
  return absl::UnimplementedError("this build is without CUDA");
}

std::string CudaArchitectures() { return ""; }

}  // namespace qwenserve
