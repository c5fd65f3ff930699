#ifndef QWENSERVE_KERNELS_CUDA_GEMM_GEMM_KERNELS_H_
#define QWENSERVE_KERNELS_CUDA_GEMM_GEMM_KERNELS_H_

#include <cstdint>

#include "kernels/cuda/gemm/linear_plan.h"
#include "kernels/cuda/runtime/gpu_kernel.h"

// What the kernels of this folder take, and the table of them. All pointers are to device memory.
namespace qwenserve {

// A weight in fragments (fragment_layout.h).
struct FragmentWeight {
  const uint8_t* data = nullptr;
  const uint16_t* scales = nullptr;  // quantised formats
  const uint8_t* zeros = nullptr;    // null: 8 (int4), 128 (int8)
  int32_t out_features = 0;
  int32_t tiles = 0;
  int32_t granules = 0;
  int32_t groups = 0;
  int32_t group_size = 0;  // inputs, a multiple of kEntryInputs, not above those of all granules
  uint32_t group_magic = 0;
  bool groups_cut_granules = false;  // else groups end where granules do
};

// out = x * weight^T + bias, or, with up_tile, silu(x * gate^T) * (x * up^T) in bf16.
struct LinearKernelArgs {
  FragmentWeight weight;
  const uint16_t* x = nullptr;  // bf16 [rows, x_inputs], aligned to 16 bytes
  int32_t rows = 0;
  int32_t x_inputs = 0;  // a multiple of 8
  const float* bias = nullptr;
  float* out = nullptr;           // [rows, out_features]
  uint16_t* activated = nullptr;  // [rows, out_features / 2]: instead of out
  int32_t up_tile = 0;            // with activated: the first tile of the lower half
  int32_t parts = 0;
  int32_t parts_per_block = 0;
  float* partials = nullptr;
  int32_t* arrivals = nullptr;  // zero, and left so
};

// out = x * weight^T + bias, weight [out_features, in_features] floats.
struct LinearF32Args {
  const float* weight = nullptr;
  const uint16_t* x = nullptr;
  const float* bias = nullptr;
  float* out = nullptr;
  int32_t rows = 0, in_features = 0, out_features = 0;
};
inline constexpr int kF32WarpsPerBlock = 8;  // an output each
inline constexpr int kF32RowsPerBlock = 8;

// out[r][i] = x[r][order[i]], or x[r][i] without order; 0 where there is none. bf16.
struct GatherInputsArgs {
  const uint16_t* x = nullptr;
  const int32_t* order = nullptr;
  uint16_t* out = nullptr;
  int32_t rows = 0, in_features = 0, inputs = 0, out_inputs = 0;
};

// out[r] = row ids[r] - first_id of the weight, or zeros. A block per row.
struct EmbedArgs {
  FragmentWeight weight;
  const float* plain = nullptr;  // instead of the weight: floats, row-major
  const int32_t* order = nullptr;
  const int32_t* ids = nullptr;
  int64_t first_id = 0;
  float* out = nullptr;
  int32_t in_features = 0, inputs = 0;
};

// The weight as bf16 [out_features, in_features], each element rounded once.
struct UnpackArgs {
  FragmentWeight weight;
  const float* plain = nullptr;
  const int32_t* order = nullptr;
  uint16_t* out = nullptr;
  int32_t in_features = 0, inputs = 0;
};

// Rows of 16 bit numbers, or of codes of a byte, into fragments, from a whole tile on.
struct RepackArgs {
  const void* rows = nullptr;  // [num_rows, inputs]
  uint8_t* data = nullptr;     // of the first tile
  int32_t num_rows = 0, inputs = 0, granules = 0;
};
// [num_rows, groups] into [tiles][groups][16].
struct RepackScalesArgs {
  const uint16_t* scales = nullptr;
  const uint8_t* zeros = nullptr;
  uint16_t* packed_scales = nullptr;
  uint8_t* packed_zeros = nullptr;
  int32_t num_rows = 0, groups = 0;
};

inline constexpr int kPlainThreads = 256;  // of a block of the kernels that are not products

// The products with one format.
struct LinearKernels {
  GpuKernel skinny[kNumSkinnyShapes];  // empty without HasSkinny
  GpuKernel wide[kNumWideShapes];      // empty without HasWide
};

struct GemmKernels {
  LinearKernels linear[kNumFragmentFormats];
  GpuKernel embed[kNumFragmentFormats + 1];  // the last: plain floats
  GpuKernel unpack[kNumFragmentFormats + 1];
  GpuKernel repack_16bit, repack_int8, repack_int4, repack_scales;
  GpuKernel linear_f32, gather_inputs;
  GpuKernel silu_mul;  // of elementwise/: for what can't be fused
};

// on_simt: the emulation (library kernels_simt); on_cuda: GPUs (kernels_cuda, in builds with CUDA).
namespace on_simt {
LinearKernels GetLinearBf16Kernels();
LinearKernels GetLinearF16Kernels();
LinearKernels GetLinearInt8Kernels();
LinearKernels GetLinearInt4Kernels();
GemmKernels GetGemmKernels();
}  // namespace on_simt
namespace on_cuda {
LinearKernels GetLinearBf16Kernels();
LinearKernels GetLinearF16Kernels();
LinearKernels GetLinearInt8Kernels();
LinearKernels GetLinearInt4Kernels();
GemmKernels GetGemmKernels();
}  // namespace on_cuda

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GEMM_GEMM_KERNELS_H_
