#ifndef QWENSERVE_KERNELS_LINEAR_WEIGHT_H_
#define QWENSERVE_KERNELS_LINEAR_WEIGHT_H_

#include <cstdint>

#include "kernels/buffer.h"
#include "kernels/dtype.h"

namespace qwenserve {

// How a weight matrix is stored. The format is data, not type: model code never looks at it.
enum class WeightFormat : uint8_t { kF32, kBf16, kF16 };

const char* WeightFormatName(WeightFormat format);

// Some consecutive rows of a weight matrix in host memory, as a checkpoint holds them: row r starts
// at element r * row_stride of `data`. Not owned. A tensor-parallel slice along the inputs is a
// RowBlock whose data points into the row and whose row_stride is the whole row.
struct RowBlock {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t row_stride = 0;  // elements
};

// A weight matrix [out_features, in_features] in the layout of the backend that packed it
// (Backend::PackLinear). y = x * W^T. The layout is private to that backend.
struct LinearWeight {
  WeightFormat format = WeightFormat::kF32;
  int64_t out_features = 0;
  int64_t in_features = 0;
  Buffer data;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_LINEAR_WEIGHT_H_
