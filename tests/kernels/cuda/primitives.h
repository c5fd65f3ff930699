#ifndef QWENSERVE_TESTS_KERNELS_CUDA_PRIMITIVES_H_
#define QWENSERVE_TESTS_KERNELS_CUDA_PRIMITIVES_H_

#include <cstdint>

#include "kernels/cuda/runtime/gpu_kernel.h"

namespace qwenserve {

// One kernel for each group of functions of device.h. What a kernel reads and writes is said where
// it is tested (primitives_test.cc).
struct PrimitiveArgs {
  const void* in = nullptr;
  void* out = nullptr;
  int32_t count = 0;
};

struct PrimitiveKernels {
  GpuKernel positions;
  GpuKernel shuffles;
  GpuKernel wide_shuffles;
  GpuKernel atomics;
  GpuKernel barriers;
  GpuKernel copies;
  GpuKernel matrices;
  GpuKernel mma;
  GpuKernel floats;
  GpuKernel integers;
};

namespace on_cuda {
PrimitiveKernels GetPrimitiveKernels();
}
namespace on_simt {
PrimitiveKernels GetPrimitiveKernels();
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_CUDA_PRIMITIVES_H_
