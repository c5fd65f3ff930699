#include "engine/quantize/matmul.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/check.h"

namespace qwenserve {
namespace {

// One block of A (96 KiB) lies in the second cache while panels of B pass through the first. All
// are multiples of every kernel's tile.
constexpr int64_t kRowBlock = 96;
constexpr int64_t kColumnBlock = 384;
constexpr int64_t kDepthBlock = 256;
// Tiles of C that threads take: large enough that packing costs a few percent.
constexpr int64_t kTaskRows = 192;
constexpr int64_t kTaskColumns = 384;
constexpr int64_t kMaxTileFloats = 512;

// Copies `count` lines (rows of A, columns of B) of `depth` elements into panels of `width` lines,
// [panel][depth][width]; the lines that a last panel lacks are zeros.
void Pack(const float* data, int64_t line_stride, int64_t depth_stride, int64_t count,
          int64_t depth, int64_t width, float* out) {
  for (int64_t first = 0; first < count; first += width) {
    const int64_t lines = std::min(width, count - first);
    const float* from = data + first * line_stride;
    for (int64_t d = 0; d < depth; ++d, out += width) {
      const float* element = from + d * depth_stride;
      for (int64_t i = 0; i < lines; ++i) out[i] = element[i * line_stride];
      for (int64_t i = lines; i < width; ++i) out[i] = 0.0f;
    }
  }
}

// One block of C from packed A and B.
void MultiplyBlock(const MatmulKernel& kernel, const ProductShape& shape, float factor,
                   const float* a, const float* b, float* c, int64_t ldc) {
  QS_CHECK(kernel.rows * kernel.columns <= kMaxTileFloats);
  float edge[kMaxTileFloats];
  for (int64_t j = 0; j < shape.columns; j += kernel.columns) {
    const int64_t columns = std::min(kernel.columns, shape.columns - j);
    for (int64_t i = 0; i < shape.rows; i += kernel.rows) {
      const int64_t rows = std::min(kernel.rows, shape.rows - i);
      const float* left = a + i * shape.depth;
      const float* right = b + j * shape.depth;
      float* out = c + i * ldc + j;
      if (rows == kernel.rows && columns == kernel.columns) {
        kernel.run(shape.depth, left, right, factor, out, ldc);
        continue;
      }
      std::fill(edge, edge + kernel.rows * kernel.columns, 0.0f);
      kernel.run(shape.depth, left, right, factor, edge, kernel.columns);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k = 0; k < columns; ++k) out[r * ldc + k] += edge[r * kernel.columns + k];
      }
    }
  }
}

bool IsWanted(Triangle triangle, int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
  switch (triangle) {
    case Triangle::kAll:
      return true;
    case Triangle::kUpper:
      return column_end > row;
    case Triangle::kLower:
      return row_end > column;
  }
  return true;
}

}  // namespace

void AddProduct(const ProductShape& shape, float factor, MatrixView a, MatrixView b, float* c,
                int64_t ldc, const MatmulKernel& kernel) {
  thread_local std::vector<float> packed_a(kRowBlock * kDepthBlock);
  thread_local std::vector<float> packed_b(kColumnBlock * kDepthBlock);
  for (int64_t d = 0; d < shape.depth; d += kDepthBlock) {
    const int64_t depth = std::min(kDepthBlock, shape.depth - d);
    for (int64_t j = 0; j < shape.columns; j += kColumnBlock) {
      const int64_t columns = std::min(kColumnBlock, shape.columns - j);
      const MatrixView right = b.From(d, j);
      Pack(right.data, right.column_stride, right.row_stride, columns, depth, kernel.columns,
           packed_b.data());
      for (int64_t i = 0; i < shape.rows; i += kRowBlock) {
        const int64_t rows = std::min(kRowBlock, shape.rows - i);
        const MatrixView left = a.From(i, d);
        Pack(left.data, left.row_stride, left.column_stride, rows, depth, kernel.rows,
             packed_a.data());
        MultiplyBlock(kernel, {rows, columns, depth}, factor, packed_a.data(), packed_b.data(),
                      c + i * ldc + j, ldc);
      }
    }
  }
}

void AddProduct(ThreadPool& pool, Triangle triangle, const ProductShape& shape, float factor,
                MatrixView a, MatrixView b, float* c, int64_t ldc) {
  const int64_t down = (shape.rows + kTaskRows - 1) / kTaskRows;
  const int64_t across = (shape.columns + kTaskColumns - 1) / kTaskColumns;
  ParallelTasks(pool, down * across, [&](int64_t task) {
    const int64_t row = task / across * kTaskRows, column = task % across * kTaskColumns;
    const int64_t row_end = std::min(row + kTaskRows, shape.rows);
    const int64_t column_end = std::min(column + kTaskColumns, shape.columns);
    if (!IsWanted(triangle, row, row_end, column, column_end)) return;
    AddProduct({row_end - row, column_end - column, shape.depth}, factor, a.From(row, 0),
               b.From(0, column), c + row * ldc + column, ldc);
  });
}

void ParallelTasks(ThreadPool& pool, int64_t count, absl::FunctionRef<void(int64_t)> work) {
  std::atomic<int64_t> next{0};
  pool.Run([&](int) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) work(i);
  });
}

}  // namespace qwenserve
