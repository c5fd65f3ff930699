#ifndef QWENSERVE_KERNELS_CUDA_RUNTIME_GPU_BUFFER_H_
#define QWENSERVE_KERNELS_CUDA_RUNTIME_GPU_BUFFER_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "kernels/buffer.h"
#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

// Device memory that is zero by the time that work issued later to kCompute runs. `device` must
// outlive it. RESOURCE_EXHAUSTED with the sizes when there is no room.
absl::StatusOr<Buffer> AllocateGpuBuffer(GpuDevice& device, size_t bytes);

// Host memory for copies to and from the device, not zeroed.
absl::StatusOr<Buffer> AllocatePinnedBuffer(GpuDevice& device, size_t bytes);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_RUNTIME_GPU_BUFFER_H_
