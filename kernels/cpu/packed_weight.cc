#include "kernels/cpu/packed_weight.h"

#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/transpose_panel.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

// Where element (column, k) of a panel is: at column_offset + k / unit * step + k % unit.
struct PanelOrder {
  int64_t column_offset;
  int64_t unit = 1;
  int64_t step = kPanelColumns;
};

PanelOrder OrderOf(bool bf16, bool bf16_pairs, int64_t column) {
  if (!bf16) return {.column_offset = column};
  if (bf16_pairs) return {.column_offset = 2 * column, .unit = 2, .step = 2 * kPanelColumns};
  return {.column_offset = column < 8 ? 2 * column : 2 * column - 15};
}

// Elements of a panel.
int64_t PanelElements(bool bf16_pairs, int64_t in_features) {
  return kPanelColumns * (bf16_pairs ? (in_features + 1) / 2 * 2 : in_features);
}

// Which column of a panel lies at which place, where single elements are interleaved.
int64_t ColumnAt(bool bf16, int64_t place) {
  if (!bf16) return place;
  return place % 2 == 0 ? place / 2 : 8 + place / 2;
}

// The rows of the stacked blocks one after the other.
class RowCursor {
 public:
  RowCursor(absl::Span<const RowBlock> blocks, int64_t row) : blocks_(blocks), row_(row) {}

  // The next row, or null past the last.
  const char* Next() {
    while (block_ < blocks_.size() && row_ >= blocks_[block_].rows) row_ -= blocks_[block_++].rows;
    if (block_ == blocks_.size()) return nullptr;
    const RowBlock& block = blocks_[block_];
    const int64_t element = row_++ * block.row_stride;
    return static_cast<const char*>(block.data) +
           element * static_cast<int64_t>(DTypeBytes(block.dtype));
  }

 private:
  const absl::Span<const RowBlock> blocks_;
  size_t block_ = 0;
  int64_t row_;  // in the block
};

// Pairs of bf16 are transposed as units of four bytes; the last of an odd number has a zero beside
// it.
void PackPairs(const void* const* rows, int64_t in_features, uint16_t* panel) {
  TransposePanel(rows, in_features / 2, reinterpret_cast<uint32_t*>(panel));
  if (in_features % 2 == 0) return;
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    panel[(in_features - 1) * kPanelColumns + 2 * c] =
        static_cast<const uint16_t*>(rows[c])[in_features - 1];
  }
}

}  // namespace

int64_t NumPanels(int64_t out_features) {
  return (out_features + kPanelColumns - 1) / kPanelColumns;
}

size_t PackedBytes(WeightFormat format, int64_t out_features, int64_t in_features,
                   bool bf16_pairs) {
  const size_t element = format == WeightFormat::kF32 ? 4 : 2;
  const bool pairs = format == WeightFormat::kBf16 && bf16_pairs;
  return static_cast<size_t>(NumPanels(out_features) * PanelElements(pairs, in_features)) * element;
}

void PackPanels(absl::Span<const RowBlock> blocks, int64_t in_features, int64_t begin, int64_t end,
                bool bf16_pairs, void* packed) {
  if (blocks.empty()) return;
  const DType dtype = blocks[0].dtype;
  const bool bf16 = dtype == DType::kBf16, pairs = bf16 && bf16_pairs;
  const auto element = static_cast<int64_t>(DTypeBytes(dtype));
  std::vector<char> zeros;  // a row past the last
  RowCursor cursor(blocks, begin * kPanelColumns);
  for (int64_t p = begin; p < end; ++p) {
    const void* columns[kPanelColumns];
    const void* rows[kPanelColumns];
    for (const void*& column : columns) {
      column = cursor.Next();
      if (column != nullptr) continue;
      zeros.resize(static_cast<size_t>(in_features * element));
      column = zeros.data();
    }
    for (int64_t i = 0; i < kPanelColumns; ++i) rows[i] = columns[ColumnAt(bf16 && !pairs, i)];
    char* panel = static_cast<char*>(packed) + p * PanelElements(pairs, in_features) * element;
    if (pairs) {
      PackPairs(rows, in_features, reinterpret_cast<uint16_t*>(panel));
    } else if (dtype == DType::kF32) {
      TransposePanel(rows, in_features, reinterpret_cast<uint32_t*>(panel));
    } else {
      TransposePanel(rows, in_features, reinterpret_cast<uint16_t*>(panel));
    }
  }
}

void ReadPackedRow(const LinearWeight& weight, int64_t row, bool bf16_pairs, float* out) {
  const int64_t count = weight.in_features;
  const bool bf16 = weight.format == WeightFormat::kBf16;
  const int64_t start = row / kPanelColumns * PanelElements(bf16 && bf16_pairs, count);
  const PanelOrder order = OrderOf(bf16, bf16_pairs, row % kPanelColumns);
  if (weight.format == WeightFormat::kF32) {
    const float* source = weight.data.as<float>() + start + order.column_offset;
    for (int64_t k = 0; k < count; ++k) out[k] = source[k * kPanelColumns];
    return;
  }
  const uint16_t* source = weight.data.as<uint16_t>() + start + order.column_offset;
  for (int64_t k = 0; k < count; ++k) {
    const uint16_t bits = source[k / order.unit * order.step + k % order.unit];
    out[k] = bf16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
  }
}

}  // namespace qwenserve
