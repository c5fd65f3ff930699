#ifndef QWENSERVE_TESTS_KERNELS_CUDA_SAMPLE_KERNELS_H_
#define QWENSERVE_TESTS_KERNELS_CUDA_SAMPLE_KERNELS_H_

#include <cstdint>

#include "kernels/cuda/runtime/gpu_kernel.h"

namespace qwenserve {

// sums[block] = the sum of values [block * count, ...).
struct BlockSumArgs {
  const int32_t* values;
  int32_t count;
  int32_t* sums;
};

struct SampleKernels {
  GpuKernel block_sum;
};

namespace on_cuda {
SampleKernels GetSampleKernels();
}
namespace on_simt {
SampleKernels GetSampleKernels();
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_CUDA_SAMPLE_KERNELS_H_
