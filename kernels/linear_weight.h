#ifndef QWENSERVE_KERNELS_LINEAR_WEIGHT_H_
#define QWENSERVE_KERNELS_LINEAR_WEIGHT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/buffer.h"
#include "kernels/dtype.h"

namespace qwenserve {

// How a weight matrix is stored. The format is data, not type: model code never looks at it.
enum class WeightFormat : uint8_t { kF32, kBf16, kF16, kInt8, kInt4 };
inline constexpr int kNumWeightFormats = 5;

const char* WeightFormatName(WeightFormat format);

constexpr bool IsQuantized(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
}

// Some consecutive rows of a weight matrix in host memory, as a checkpoint holds them: row r starts
// at element r * row_stride of `data`. Not owned. A tensor-parallel slice along the inputs is a
// RowBlock whose data points into the row and whose row_stride is the whole row.
struct RowBlock {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t row_stride = 0;  // elements
  // Where `data` lies in a file, if in one: a device with memory of its own reads it there. The
  // descriptor is not owned.
  int fd = -1;
  int64_t file_offset = 0;
};

// Inputs of a quantised matrix are packed in units of this many; a group is a multiple of it.
inline constexpr int64_t kQuantBlock = 32;

// The shape of a quantised matrix: weight[o][i] = scale[o][g] * (code[o][i] - zero[o][g]) with
// unsigned codes of 4 or 8 bits and g = i / group_size, the last group perhaps shorter.
struct QuantizedShape {
  WeightFormat format = WeightFormat::kInt4;
  int64_t out_features = 0;
  int64_t in_features = 0;  // of x
  int64_t group_size = 0;   // a multiple of kQuantBlock; >= in_features: one scale per row
  bool has_zeros = false;   // false: every zero is 8 (int4) or 128 (int8)
  // Where the checkpoint groups its inputs in another order than that of x (GPTQ act-order): packed
  // input i is input_order[i] of x, or nothing where that is -1 (its codes don't count). Empty: in
  // order. A multiple of kQuantBlock entries.
  std::vector<int32_t> input_order;

  // Inputs as packed: input_order's, or in_features rounded up to kQuantBlock.
  int64_t packed_inputs() const {
    return input_order.empty() ? (in_features + kQuantBlock - 1) / kQuantBlock * kQuantBlock
                               : static_cast<int64_t>(input_order.size());
  }
  int64_t groups() const { return (packed_inputs() + group_size - 1) / group_size; }
};

// Room for some rows of a quantised matrix, row-major.
struct QuantizedRows {
  uint8_t* codes = nullptr;    // [rows, packed_inputs()], one byte each; comes zeroed
  uint16_t* scales = nullptr;  // [rows, groups()], fp16 bits
  uint8_t* zeros = nullptr;    // [rows, groups()]; null without has_zeros
};

// Where a backend gets the rows of a quantised matrix while it packs them: unpacks one checkpoint
// style, or quantises. Read by several threads at once, each row once.
class QuantizedRowSource {
 public:
  virtual ~QuantizedRowSource() = default;
  // Fills rows begin .. end - 1. Codes past in_features need not be written. The error (a damaged
  // scale, say) ends the packing.
  virtual absl::Status ReadRows(int64_t begin, int64_t end, const QuantizedRows& rows) const = 0;
};

// A weight matrix [out_features, in_features] in the layout of the backend that packed it
// (Backend::PackLinear, Backend::PackQuantized). y = x * W^T. The layout is private to that
// backend.
struct LinearWeight {
  WeightFormat format = WeightFormat::kF32;
  int64_t out_features = 0;
  int64_t in_features = 0;
  Buffer data;

  // Quantised formats only; as in QuantizedShape.
  int64_t packed_inputs = 0;
  int64_t group_size = 0;
  Buffer scales;
  Buffer zeros;        // empty: symmetric
  Buffer input_order;  // int32 [packed_inputs], or empty

  // Of device memory.
  size_t bytes() const {
    return data.bytes() + scales.bytes() + zeros.bytes() + input_order.bytes();
  }
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_LINEAR_WEIGHT_H_
