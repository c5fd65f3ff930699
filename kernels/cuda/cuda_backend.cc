// Linked where the kernels are compiled for GPUs.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/cuda/gpu_backend.h"

namespace qwenserve {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options) {
  if (!options.exact) {
    return absl::UnimplementedError("there are no products but the exact ones");
  }
  absl::StatusOr<std::unique_ptr<GpuDevice>> device = MakeCudaDevice(options.device);
  if (!device.ok()) return device.status();
  GpuBackendOptions gpu;
  gpu.table_name = absl::StrCat("cuda-1-sm", (*device)->properties().sm / 10 * 10, "-exact");
  gpu.timeout = options.timeout;
  gpu.upload.timeout = options.timeout;
  gpu.warn = options.warn;
  return GpuBackend::Create(*std::move(device), on_cuda::GetGpuKernels(), gpu);
}

}  // namespace qwenserve
