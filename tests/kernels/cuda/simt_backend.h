#ifndef QWENSERVE_TESTS_KERNELS_CUDA_SIMT_BACKEND_H_
#define QWENSERVE_TESTS_KERNELS_CUDA_SIMT_BACKEND_H_

#include <cstdint>
#include <memory>

#include "kernels/cuda/gpu_backend.h"
#include "kernels/cuda/runtime/simt_faults.h"

namespace qwenserve {

// The backend of GPUs over their emulation. `seed`: of the order in which a block's threads run.
absl::StatusOr<std::unique_ptr<Backend>> MakeSimtBackend(
    uint64_t seed, std::shared_ptr<SimtFaults> faults = nullptr, GpuBackendOptions options = {});

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_CUDA_SIMT_BACKEND_H_
