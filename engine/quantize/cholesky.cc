#include "engine/quantize/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/matmul.h"

namespace qwenserve {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kPanelRows = 32;      // rows of a panel that one task solves
constexpr int64_t kPanelColumns = 384;  // columns of the inverse that one task makes

// Sum of a[t] * b[t] in double.
double Dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t t = 0; t < count; ++t) sum += double{a[t]} * b[t];
  return sum;
}

// The lower factor of the block of `size` at `first`.
absl::Status FactorDiagonal(float* h, int64_t n, int64_t first, int64_t size) {
  float* block = h + first * (n + 1);
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      const double rest = block[i * n + j] - Dot(block + i * n, block + j * n, j);
      if (j < i) {
        block[i * n + j] = static_cast<float>(rest / block[j * n + j]);
        continue;
      }
      if (!(rest > 0) || !std::isfinite(rest)) {
        return absl::FailedPreconditionError(
            absl::StrCat("not positive definite: pivot ", first + i, " of ", n, " is ", rest));
      }
      block[i * n + i] = static_cast<float>(std::sqrt(rest));
    }
  }
  return absl::OkStatus();
}

// The lower Cholesky factor of h, in its lower triangle.
absl::Status FactorLower(ThreadPool& pool, float* h, int64_t n) {
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t size = std::min(kBlock, n - first);
    QS_RETURN_IF_ERROR(FactorDiagonal(h, n, first, size));
    const int64_t below = first + size;
    const float* diagonal = h + first * (n + 1);
    ParallelTasks(pool, (n - below + kPanelRows - 1) / kPanelRows, [&](int64_t task) {
      const int64_t begin = below + task * kPanelRows;
      for (int64_t i = begin; i < std::min(begin + kPanelRows, n); ++i) {
        float* row = h + i * n + first;
        for (int64_t j = 0; j < size; ++j) {
          row[j] =
              static_cast<float>((row[j] - Dot(row, diagonal + j * n, j)) / diagonal[j * n + j]);
        }
      }
    });
    const MatrixView panel{h + below * n + first, n, 1};
    AddProduct(pool, Triangle::kLower, {n - below, n - below, size}, -1.0f, panel,
               panel.Transposed(), h + below * (n + 1), n);
  }
  return absl::OkStatus();
}

// The inverse of the lower triangular block of `size` at `block`, rows of n, into a compact one.
void InvertDiagonal(const float* block, int64_t n, int64_t size, float* inverse) {
  std::fill(inverse, inverse + size * size, 0.0f);
  for (int64_t j = 0; j < size; ++j) {
    inverse[j * size + j] = 1.0f / block[j * n + j];
    for (int64_t i = j + 1; i < size; ++i) {
      double sum = 0;
      for (int64_t t = j; t < i; ++t) sum += double{block[i * n + t]} * inverse[t * size + j];
      inverse[i * size + j] = static_cast<float>(-sum / block[i * n + i]);
    }
  }
}

// Replaces the lower triangular l by its inverse X, block row by block row:
// X_ij = -L_ii^-1 * sum over j <= k < i of L_ik X_kj. Elements above the diagonal must be zeros.
void InvertLower(ThreadPool& pool, float* l, int64_t n) {
  std::vector<float> row(static_cast<size_t>(kBlock * n)), sum(static_cast<size_t>(kBlock * n));
  std::vector<float> diagonal(kBlock * kBlock);
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t size = std::min(kBlock, n - first);
    InvertDiagonal(l + first * (n + 1), n, size, diagonal.data());
    for (int64_t i = 0; i < size; ++i) {
      std::copy_n(l + (first + i) * n, first, row.data() + i * n);
      std::copy_n(diagonal.data() + i * size, size, l + (first + i) * n + first);
    }
    ParallelTasks(pool, (first + kPanelColumns - 1) / kPanelColumns, [&](int64_t task) {
      const int64_t begin = task * kPanelColumns;
      const int64_t columns = std::min(kPanelColumns, first - begin);
      float* out = l + first * n + begin;
      for (int64_t i = 0; i < size; ++i) {
        std::fill_n(sum.data() + i * n + begin, columns, 0.0f);
        std::fill_n(out + i * n, columns, 0.0f);
      }
      AddProduct({size, columns, first - begin}, 1.0f, {row.data() + begin, n, 1},
                 {l + begin * (n + 1), n, 1}, sum.data() + begin, n);
      AddProduct({size, columns, size}, -1.0f, {diagonal.data(), size, 1},
                 {sum.data() + begin, n, 1}, out, n);
    });
  }
}

}  // namespace

absl::Status InvertToUpperCholesky(ThreadPool& pool, float* h, int64_t n) {
  // Read backwards, the elements of a matrix are those of the matrix with rows and columns in
  // reverse order.
  std::reverse(h, h + n * n);
  QS_RETURN_IF_ERROR(FactorLower(pool, h, n));
  for (int64_t i = 0; i < n; ++i) std::fill(h + i * n + i + 1, h + (i + 1) * n, 0.0f);
  InvertLower(pool, h, n);
  std::reverse(h, h + n * n);
  return absl::OkStatus();
}

}  // namespace qwenserve
