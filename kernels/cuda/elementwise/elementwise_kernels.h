#ifndef QWENSERVE_KERNELS_CUDA_ELEMENTWISE_ELEMENTWISE_KERNELS_H_
#define QWENSERVE_KERNELS_CUDA_ELEMENTWISE_ELEMENTWISE_KERNELS_H_

#include <cstdint>

#include "kernels/cuda/runtime/gpu_kernel.h"

namespace qwenserve {

// What the kernels of the small ops take, and who does what. All pointers are device memory,
// aligned to 16 bytes.

// One block a row. Elements are counted in units of 4 where 4 divides the width, else one by one;
// unit u belongs to thread u % threads, which adds its squares in ascending order by fma. Lanes are
// added as a butterfly (masks 16, 8, .. 1), then warps in ascending order. So the order depends on
// the width alone.
struct RmsNormArgs {
  const float* x = nullptr;       // [rows, width]
  float* residual = nullptr;      // [rows, width], or null: x itself is normalised
  const float* weight = nullptr;  // [width]
  uint16_t* out = nullptr;        // [rows, width] bf16
  int32_t width = 0;
  float epsilon = 0;
};

// Rows up to this wide have few threads: the sum ends sooner, and more rows run side by side.
inline constexpr int64_t kNarrowNorm = 1024;

struct SiluMulArgs {
  const float* gate_up = nullptr;  // [rows, 2 * width]
  uint16_t* out = nullptr;         // [rows, width] bf16
  int64_t units = 0;               // rows * width, in units of 4 where 4 divides the width
  int64_t width = 0;
};

struct GatherRowsArgs {
  const uint16_t* x = nullptr;    // [*, width] bf16
  const int32_t* rows = nullptr;  // [gridDim.x]
  uint16_t* out = nullptr;        // [gridDim.x, width]
  int64_t width = 0;
};

struct TakeDrawnArgs {
  const int32_t* drawn = nullptr;
  int32_t* ids = nullptr;  // [rows]
  int64_t rows = 0;
};

struct ElementwiseKernels {
  GpuKernel rms_norm_narrow;  // RmsNormArgs, width <= kNarrowNorm
  GpuKernel rms_norm_wide;    // RmsNormArgs
  GpuKernel silu_mul;         // SiluMulArgs
  GpuKernel gather_rows;      // GatherRowsArgs
  GpuKernel take_drawn;       // TakeDrawnArgs
};

namespace on_cuda {
ElementwiseKernels GetElementwiseKernels();
}
namespace on_simt {
ElementwiseKernels GetElementwiseKernels();
}

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_ELEMENTWISE_ELEMENTWISE_KERNELS_H_
