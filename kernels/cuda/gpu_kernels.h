#ifndef QWENSERVE_KERNELS_CUDA_GPU_KERNELS_H_
#define QWENSERVE_KERNELS_CUDA_GPU_KERNELS_H_

#include "kernels/cuda/attention/attention_kernels.h"
#include "kernels/cuda/comm/comm_kernels.h"
#include "kernels/cuda/elementwise/elementwise_kernels.h"
#include "kernels/cuda/gemm/gemm_kernels.h"
#include "kernels/cuda/sample/sample_jobs.h"

namespace qwenserve {

// Every kernel of a backend, of one build: by nvcc or for the emulation.
struct GpuKernels {
  GemmKernels gemm;
  AttentionKernels attention;
  SamplingKernels sampling;
  ElementwiseKernels elementwise;
  CommKernels comm;
};

namespace on_cuda {
inline GpuKernels GetGpuKernels() {
  return {GetGemmKernels(), GetAttentionKernels(), GetSamplingKernels(), GetElementwiseKernels(),
          GetCommKernels()};
}
}  // namespace on_cuda
namespace on_simt {
inline GpuKernels GetGpuKernels() {
  return {GetGemmKernels(), GetAttentionKernels(), GetSamplingKernels(), GetElementwiseKernels(),
          GetCommKernels()};
}
}  // namespace on_simt

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GPU_KERNELS_H_
