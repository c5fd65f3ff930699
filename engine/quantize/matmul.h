#ifndef QWENSERVE_ENGINE_QUANTIZE_MATMUL_H_
#define QWENSERVE_ENGINE_QUANTIZE_MATMUL_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "engine/quantize/matmul_kernel.h"
#include "kernels/cpu/thread_pool.h"

namespace qwenserve {

// Matrix products of the quantiser's own linear algebra, in float. The model's products are not
// made here but by Backend::Linear.

// Element (i, j) is data[i * row_stride + j * column_stride]: a matrix or its transpose, read in
// place. Not owned.
struct MatrixView {
  const float* data = nullptr;
  int64_t row_stride = 0;
  int64_t column_stride = 1;

  MatrixView Transposed() const { return {data, column_stride, row_stride}; }
  MatrixView From(int64_t row, int64_t column) const {
    return {data + row * row_stride + column * column_stride, row_stride, column_stride};
  }
};

// C [rows, columns] += factor * A [rows, depth] * B [depth, columns]; factor is 1 or -1.
struct ProductShape {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t depth = 0;
};

// On the calling thread. Blocked for the first two caches; A and B are copied into panels, so any
// strides run at the same speed. C: row i starts at c + i * ldc. The order of every sum depends on
// the depth alone.
void AddProduct(const ProductShape& shape, float factor, MatrixView a, MatrixView b, float* c,
                int64_t ldc, const MatmulKernel& kernel = BestMatmulKernel());

// Which part of C is wanted; tiles that lie wholly in the other part are left alone, so elements
// there may or may not be updated.
enum class Triangle { kAll, kUpper, kLower };

// The same on all threads of `pool`, with the same bits.
void AddProduct(ThreadPool& pool, Triangle triangle, const ProductShape& shape, float factor,
                MatrixView a, MatrixView b, float* c, int64_t ldc);

// Calls work(i) for i in 0..count-1, each once, on whichever thread is free.
void ParallelTasks(ThreadPool& pool, int64_t count, absl::FunctionRef<void(int64_t)> work);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_MATMUL_H_
