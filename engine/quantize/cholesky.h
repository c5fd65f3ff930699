#ifndef QWENSERVE_ENGINE_QUANTIZE_CHOLESKY_H_
#define QWENSERVE_ENGINE_QUANTIZE_CHOLESKY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"

namespace qwenserve {

// Replaces the symmetric positive definite matrix h [n, n] by the upper triangular U with
// h^-1 = U^T U (zeros below the diagonal). Row j of U says how the best values of the weights
// behind j change when weight j is fixed, which is all that GPTQ needs.
//
// Made without inverting h: with rows and columns in reverse order, h = L L^T (Cholesky), and U is
// L^-1 in reverse order again. Blocked, in place but for 2 * 128 * n floats, n^3 / 3 multiply-adds,
// in float with sums inside diagonal blocks in double.
//
// FAILED_PRECONDITION naming the pivot when h is not positive definite to working precision.
absl::Status InvertToUpperCholesky(ThreadPool& pool, float* h, int64_t n);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_CHOLESKY_H_
