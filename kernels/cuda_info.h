#ifndef QWENSERVE_KERNELS_CUDA_INFO_H_
#define QWENSERVE_KERNELS_CUDA_INFO_H_

#include <string>

#include "absl/status/statusor.h"

namespace qwenserve {

// How many GPUs MakeCudaBackend (kernels/backend.h) can find; errors as there.
absl::StatusOr<int> CountCudaDevices();

// The architectures that kernels were compiled for, "sm_80 sm_90a compute_90"; empty without CUDA.
std::string CudaArchitectures();

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_INFO_H_
