#include "kernels/cpu/packed_weight.h"

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {
namespace {

int64_t Slot(bool interleaved, int64_t column) {
  if (!interleaved) return column;
  return column < 8 ? 2 * column : 2 * column - 15;
}

template <typename T>
void PackRow(const T* source, int64_t in_features, int64_t slot, T* panel) {
  for (int64_t k = 0; k < in_features; ++k) panel[k * kPanelColumns + slot] = source[k];
}

template <typename T>
void Pack(absl::Span<const RowBlock> blocks, bool interleaved, int64_t in_features, int64_t begin,
          int64_t end, T* packed) {
  const int64_t first_row = begin * kPanelColumns, last_row = end * kPanelColumns;
  int64_t start = 0;  // of the block, in rows of the weight
  for (const RowBlock& block : blocks) {
    const int64_t from = first_row > start ? first_row : start;
    const int64_t to = last_row < start + block.rows ? last_row : start + block.rows;
    for (int64_t row = from; row < to; ++row) {
      PackRow(static_cast<const T*>(block.data) + (row - start) * block.row_stride, in_features,
              Slot(interleaved, row % kPanelColumns),
              packed + row / kPanelColumns * kPanelColumns * in_features);
    }
    start += block.rows;
  }
}

}  // namespace

int64_t NumPanels(int64_t out_features) {
  return (out_features + kPanelColumns - 1) / kPanelColumns;
}

size_t PackedBytes(WeightFormat format, int64_t out_features, int64_t in_features) {
  const size_t element = format == WeightFormat::kF32 ? 4 : 2;
  return static_cast<size_t>(NumPanels(out_features) * kPanelColumns * in_features) * element;
}

void PackPanels(absl::Span<const RowBlock> blocks, int64_t in_features, int64_t begin, int64_t end,
                void* packed) {
  if (blocks.empty()) return;
  const DType dtype = blocks[0].dtype;
  if (dtype == DType::kF32) {
    Pack(blocks, false, in_features, begin, end, static_cast<float*>(packed));
  } else {
    Pack(blocks, dtype == DType::kBf16, in_features, begin, end, static_cast<uint16_t*>(packed));
  }
}

void ReadPackedRow(const LinearWeight& weight, int64_t row, float* out) {
  const int64_t k = weight.in_features;
  const int64_t panel = row / kPanelColumns * kPanelColumns * k;
  const int64_t slot = Slot(weight.format == WeightFormat::kBf16, row % kPanelColumns);
  if (weight.format == WeightFormat::kF32) {
    const float* source = weight.data.as<float>() + panel + slot;
    for (int64_t i = 0; i < k; ++i) out[i] = source[i * kPanelColumns];
    return;
  }
  const uint16_t* source = weight.data.as<uint16_t>() + panel + slot;
  for (int64_t i = 0; i < k; ++i) {
    const uint16_t bits = source[i * kPanelColumns];
    out[i] = weight.format == WeightFormat::kBf16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
  }
}

}  // namespace qwenserve
