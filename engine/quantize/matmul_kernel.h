#ifndef QWENSERVE_ENGINE_QUANTIZE_MATMUL_KERNEL_H_
#define QWENSERVE_ENGINE_QUANTIZE_MATMUL_KERNEL_H_

#include <cstdint>

namespace qwenserve {

// The innermost loop of AddProduct, once per instruction set: one tile of C held in registers.
// This header is included by files that are compiled for one instruction set, so it holds no inline
// function (see kernels/cpu/kernel_table.h).
struct MatmulKernel {
  int64_t rows;     // of the tile
  int64_t columns;  // of the tile
  // c[i * ldc + j] += factor * sum over d ascending of a[d * rows + i] * b[d * columns + j].
  void (*run)(int64_t depth, const float* a, const float* b, float factor, float* c, int64_t ldc);
};

extern const MatmulKernel kPortableMatmul;
extern const MatmulKernel kAvx2Matmul;    // x86-64 only
extern const MatmulKernel kAvx512Matmul;  // x86-64 only

// The widest one that this machine runs.
const MatmulKernel& BestMatmulKernel();

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_MATMUL_KERNEL_H_
