#ifndef QWENSERVE_KERNELS_CUDA_ELEMENTWISE_GPU_ELEMENTWISE_H_
#define QWENSERVE_KERNELS_CUDA_ELEMENTWISE_GPU_ELEMENTWISE_H_

#include <cstdint>

#include "kernels/cuda/elementwise/elementwise_kernels.h"
#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

// The small ops of Backend on a GPU, with its arguments. Activations (void*) are bf16. Keeps
// nothing; `device` must outlive it.
class GpuElementwise {
 public:
  GpuElementwise(GpuDevice& device, const ElementwiseKernels& kernels)
      : device_(device), kernels_(kernels) {}

  // residual: null for RmsNorm.
  void AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual, const float* weight,
                  float epsilon, void* out);
  void SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out);
  void GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows, void* out);
  void TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids);

 private:
  GpuDevice& device_;
  const ElementwiseKernels kernels_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_ELEMENTWISE_GPU_ELEMENTWISE_H_
