#ifndef QWENSERVE_KERNELS_CUDA_RUNTIME_COPY_KERNEL_H_
#define QWENSERVE_KERNELS_CUDA_RUNTIME_COPY_KERNEL_H_

#include <cstdint>

#include "kernels/cuda/runtime/gpu_kernel.h"

namespace qwenserve {

// Copies words of 16 bytes with every block and no thought: the bandwidth that it reaches is what
// a GPU's memory gives, and what other kernels are measured against. Any grid, no shared memory.
struct CopyArgs {
  const void* from;
  void* to;
  int64_t words;
};

namespace on_cuda {
GpuKernel GetCopyKernel();
}
namespace on_simt {
GpuKernel GetCopyKernel();
}

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_RUNTIME_COPY_KERNEL_H_
