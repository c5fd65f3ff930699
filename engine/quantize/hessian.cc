#include "engine/quantize/hessian.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/quantize/matmul.h"

namespace qwenserve {

Hessian::Hessian(int64_t width)
    : width_(width), sums_(static_cast<size_t>(width) * static_cast<size_t>(width)) {}

void Hessian::Add(ThreadPool& pool, const float* x, int64_t rows) {
  const MatrixView inputs{x, width_, 1};
  AddProduct(pool, Triangle::kUpper, {width_, width_, rows}, 1.0f, inputs.Transposed(), inputs,
             sums_.data(), width_);
}

absl::Status Hessian::CheckFinite() const {
  int64_t bad = 0, first = -1;
  for (int64_t i = 0; i < width_; ++i) {
    if (std::isfinite(sums_[i * (width_ + 1)])) continue;
    if (first < 0) first = i;
    ++bad;
  }
  if (bad == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(bad, " of ", width_, " inputs became NaN or infinite on the calibration text, ",
                   "the first is number ", first));
}

std::vector<float> Hessian::Take() {
  for (int64_t i = 0; i < width_; ++i) {
    for (int64_t j = 0; j < i; ++j) sums_[i * width_ + j] = sums_[j * width_ + i];
  }
  return std::move(sums_);
}

}  // namespace qwenserve
