#ifndef QWENSERVE_KERNELS_CUDA_RUNTIME_CUDA_REQUIREMENTS_H_
#define QWENSERVE_KERNELS_CUDA_RUNTIME_CUDA_REQUIREMENTS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// mma.sync with bf16, cp.async.
inline constexpr int kMinSm = 80;

// Versions as CUDA counts them: 13000 is 13.0. driver_version 0: there is no driver, NOT_FOUND.
// FAILED_PRECONDITION when the driver is too old for a program with this runtime: what it supports
// must be of the same major version or a later one.
absl::Status CheckCudaDriver(int driver_version, int runtime_version);

// FAILED_PRECONDITION when GPU number `index` is too old.
absl::Status CheckCudaGpu(int index, absl::string_view name, int sm);

// "13.0".
std::string CudaVersionName(int version);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_RUNTIME_CUDA_REQUIREMENTS_H_
