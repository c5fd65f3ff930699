// Linked where the kernels are compiled for GPUs.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/cuda/gpu_backend.h"

namespace qwenserve {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options) {
  absl::StatusOr<std::unique_ptr<GpuDevice>> device = MakeCudaDevice(options.device);
  if (!device.ok()) return device.status();
  GpuBackendOptions gpu;
  const GpuProperties& properties = (*device)->properties();
  gpu.table_name = absl::StrCat("cuda-1-sm", properties.sm, options.exact ? "-exact" : "-fast");
  gpu.timeout = options.timeout;
  gpu.upload.timeout = options.timeout;
  gpu.warn = options.warn;
  if (!options.exact) {
    absl::StatusOr<CublasLtApi> cublaslt = LoadCublasLt(properties.runtime_version / 1000);
    if (!cublaslt.ok()) return cublaslt.status();
    gpu.cublaslt = *std::move(cublaslt);
    if (!options.cache_dir.empty()) gpu.choices_file = options.cache_dir + "/products.tsv";
  }
  return GpuBackend::Create(*std::move(device), on_cuda::GetGpuKernels(), gpu);
}

}  // namespace qwenserve
