#ifndef QWENSERVE_KERNELS_CUDA_RUNTIME_GPU_KERNEL_H_
#define QWENSERVE_KERNELS_CUDA_RUNTIME_GPU_KERNEL_H_

#include <cstddef>
#include <cstdint>

namespace qwenserve {

// A kernel that some device can launch. Every kernel body is compiled twice from one source: by
// nvcc for GPUs, and by the host's compiler for the SIMT emulation (kernels/cuda/simt). Host code
// that plans and launches works with both and doesn't know which one it has.
struct GpuKernel {
  const char* name = nullptr;
  // On a GPU the __global__ function's host symbol; in the emulation void (*)(const void* args).
  const void* function = nullptr;
  size_t args_bytes = 0;  // its one argument: a plain struct, passed by value
  uint32_t threads = 0;   // of a block, what the body was written for; one dimension
};

struct LaunchShape {
  uint32_t grid_x = 1, grid_y = 1, grid_z = 1;
  uint32_t shared_bytes = 0;  // all of a kernel's shared memory is dynamic
  // The kernel may start while its predecessor in the stream still runs, and calls
  // GridDependencyWait() before it touches anything that a predecessor wrote (programmatic
  // dependent launch). Ignored by GPUs before sm_90 and by the emulation.
  bool overlaps_previous = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_RUNTIME_GPU_KERNEL_H_
