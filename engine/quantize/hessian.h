#ifndef QWENSERVE_ENGINE_QUANTIZE_HESSIAN_H_
#define QWENSERVE_ENGINE_QUANTIZE_HESSIAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"

namespace qwenserve {

// H = sum over calibration tokens of x x^T, where x [width] is the input of a matrix: the second
// derivative (less a factor that cancels) of the squared error of the matrix's outputs by each of
// its rows. Float; 4 width^2 bytes.
class Hessian {
 public:
  explicit Hessian(int64_t width);

  // x: [rows, width]. The hot part of calibration: rows * width^2 / 2 multiply-adds, since only the
  // upper triangle is computed. The bits depend on the order of the calls, not on the threads.
  void Add(ThreadPool& pool, const float* x, int64_t rows);

  // INVALID_ARGUMENT when a sum is NaN or infinite, naming the input and the count: the model
  // itself computed such a value. (A bad element of any x shows on the diagonal.)
  absl::Status CheckFinite() const;

  // The whole symmetric matrix, row by row; Add may not be called any more.
  std::vector<float> Take();

  int64_t width() const { return width_; }

 private:
  const int64_t width_;
  std::vector<float> sums_;  // [width, width], upper triangle valid
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_HESSIAN_H_
