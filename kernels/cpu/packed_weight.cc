#include "kernels/cpu/packed_weight.h"

#include "kernels/cpu/kernel_table.h"

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

template <typename T>
void PackRow(const T* source, int64_t in_features, const PanelOrder& order, T* panel) {
  panel += order.column_offset;
  if (order.unit == 1) {
    for (int64_t k = 0; k < in_features; ++k) panel[k * kPanelColumns] = source[k];
    return;
  }
  for (int64_t k = 0; k < in_features; ++k) panel[k / 2 * order.step + k % 2] = source[k];
}

// Elements of a panel.
int64_t PanelElements(bool bf16_pairs, int64_t in_features) {
  return kPanelColumns * (bf16_pairs ? (in_features + 1) / 2 * 2 : in_features);
}

template <typename T>
void Pack(absl::Span<const RowBlock> blocks, bool bf16_pairs, int64_t in_features, int64_t begin,
          int64_t end, T* packed) {
  const bool bf16 = blocks[0].dtype == DType::kBf16;
  const int64_t panel_elements = PanelElements(bf16 && bf16_pairs, in_features);
  const int64_t first_row = begin * kPanelColumns, last_row = end * kPanelColumns;
  int64_t start = 0;  // of the block, in rows of the weight
  for (const RowBlock& block : blocks) {
    const int64_t from = first_row > start ? first_row : start;
    const int64_t to = last_row < start + block.rows ? last_row : start + block.rows;
    for (int64_t row = from; row < to; ++row) {
      PackRow(static_cast<const T*>(block.data) + (row - start) * block.row_stride, in_features,
              OrderOf(bf16, bf16_pairs, row % kPanelColumns),
              packed + row / kPanelColumns * panel_elements);
    }
    start += block.rows;
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
  if (blocks[0].dtype == DType::kF32) {
    Pack(blocks, bf16_pairs, in_features, begin, end, static_cast<float*>(packed));
  } else {
    Pack(blocks, bf16_pairs, in_features, begin, end, static_cast<uint16_t*>(packed));
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
