#ifndef QWENSERVE_KERNELS_CUDA_COMM_COMM_KERNELS_H_
#define QWENSERVE_KERNELS_CUDA_COMM_COMM_KERNELS_H_

#include <cstdint>

#include "kernels/cuda/runtime/gpu_kernel.h"

namespace qwenserve {

// out[i] = part(0)[i] + part(1)[i] + ... in this order, in float: what every communicator computes.
// part(r) is parts + r * stride, but part(rank) is `own`; `out` may be `own`. Four at a time where
// every pointer is aligned to 16 bytes and stride is a multiple of 4.
struct SumRanksArgs {
  const float* parts;  // [size, stride]
  const float* own;    // [count]
  float* out;          // [count]
  int64_t stride;
  int64_t count;
  int32_t rank;
  int32_t size;
};

// all[row, r, column] = parts[r, row, column]: from how a gather leaves rows to how they are read.
struct InterleaveRowsArgs {
  const float* parts;  // [size, rows, width]
  float* all;          // [rows, size, width]
  int64_t rows;
  int64_t width;
  int32_t size;
};

struct CommKernels {
  GpuKernel sum_ranks;
  GpuKernel interleave_rows;
};

// Both go over their elements in steps of the whole grid; so many blocks of this many elements give
// each thread about four.
inline constexpr int kCommThreads = 256;
inline constexpr int64_t kCommBlockFloats = 1024;
inline constexpr int64_t kCommMostBlocks = 1024;

namespace on_cuda {
CommKernels GetCommKernels();
}
namespace on_simt {
CommKernels GetCommKernels();
}

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_COMM_COMM_KERNELS_H_
