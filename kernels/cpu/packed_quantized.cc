#include "kernels/cpu/packed_quantized.h"

#include <algorithm>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

constexpr uint8_t kInt8Middle = 128;
constexpr uint8_t kInt4Middle = 8;

// Bytes of a panel: 16 outputs of one input take 16 bytes in int8, 8 in int4.
int64_t PanelBytes(WeightFormat format, int64_t packed_inputs) {
  return packed_inputs * (format == WeightFormat::kInt8 ? kPanelColumns : kPanelColumns / 2);
}

void PackInt8(const uint8_t* codes, int64_t inputs, int64_t column, uint8_t* panel) {
  for (int64_t i = 0; i < inputs; i += 4) {
    uint8_t* unit = panel + i * kPanelColumns + column * 4;
    for (int64_t j = 0; j < 4; ++j) unit[j] = codes[i + j] ^ kInt8Middle;
  }
}

void PackInt4(const uint8_t* codes, int64_t inputs, int64_t column, uint8_t* panel) {
  for (int64_t i = 0; i < inputs; i += 8) {
    uint8_t* unit = panel + i * kPanelColumns / 2 + column * 4;
    for (int64_t j = 0; j < 4; ++j) {
      QS_CHECK(codes[i + j] < 16 && codes[i + 4 + j] < 16);
      unit[j] = static_cast<uint8_t>(codes[i + j] | codes[i + 4 + j] << 4);
    }
  }
}

}  // namespace

size_t QuantizedDataBytes(const QuantizedShape& shape) {
  return static_cast<size_t>(NumPanels(shape.out_features) *
                             PanelBytes(shape.format, shape.packed_inputs()));
}

int64_t QuantizedScaleCount(const QuantizedShape& shape) {
  return NumPanels(shape.out_features) * kPanelColumns * shape.groups();
}

absl::Status PackQuantizedPanels(const QuantizedShape& shape, const QuantizedRowSource& rows,
                                 int64_t begin, int64_t end, const LinearWeight& weight) {
  const int64_t inputs = shape.packed_inputs(), groups = shape.groups();
  std::vector<uint8_t> codes(static_cast<size_t>(kPanelColumns * inputs));
  std::vector<uint16_t> scales(static_cast<size_t>(kPanelColumns * groups));
  std::vector<uint8_t> zeros(static_cast<size_t>(shape.has_zeros ? kPanelColumns * groups : 0));
  for (int64_t p = begin; p < end; ++p) {
    std::fill(codes.begin(), codes.end(), uint8_t{0});
    std::fill(scales.begin(), scales.end(), uint16_t{0});
    const int64_t first = p * kPanelColumns;
    const int64_t count = std::min(kPanelColumns, shape.out_features - first);
    absl::Status status =
        rows.ReadRows(first, first + count, {codes.data(), scales.data(), zeros.data()});
    if (!status.ok()) return status;
    uint8_t* panel = weight.data.as<uint8_t>() + p * PanelBytes(shape.format, inputs);
    for (int64_t c = 0; c < count; ++c) {
      const uint8_t* row = codes.data() + c * inputs;
      if (shape.format == WeightFormat::kInt8) {
        PackInt8(row, inputs, c, panel);
      } else {
        PackInt4(row, inputs, c, panel);
      }
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t slot = (p * groups + g) * kPanelColumns + c;
        weight.scales.as<uint16_t>()[slot] = scales[c * groups + g];
        if (shape.has_zeros) weight.zeros.as<uint8_t>()[slot] = zeros[c * groups + g];
      }
    }
  }
  return absl::OkStatus();
}

void ReadQuantizedRow(const LinearWeight& weight, int64_t row, float* out) {
  const bool int8 = weight.format == WeightFormat::kInt8;
  const int64_t inputs = weight.packed_inputs;
  const int64_t groups = (inputs + weight.group_size - 1) / weight.group_size;
  const int64_t p = row / kPanelColumns, column = row % kPanelColumns;
  const uint8_t* panel = weight.data.as<uint8_t>() + p * PanelBytes(weight.format, inputs);
  const int32_t* order = weight.input_order.as<int32_t>();
  if (order != nullptr) std::fill(out, out + weight.in_features, 0.0f);
  for (int64_t i = 0; i < inputs; ++i) {
    const int64_t target = order == nullptr ? i : order[i];
    if (target < 0 || target >= weight.in_features) continue;
    const int64_t slot = (p * groups + i / weight.group_size) * kPanelColumns + column;
    const float scale = F16ToFloat(weight.scales.as<uint16_t>()[slot]);
    int code, zero = int8 ? kInt8Middle : kInt4Middle;
    if (int8) {
      code = panel[(i / 4 * kPanelColumns + column) * 4 + i % 4] ^ kInt8Middle;
    } else {
      const uint8_t byte = panel[(i / 8 * kPanelColumns + column) * 4 + i % 4];
      code = i % 8 < 4 ? byte & 15 : byte >> 4;
    }
    if (!weight.zeros.empty()) zero = weight.zeros.as<uint8_t>()[slot];
    out[target] = scale * static_cast<float>(code - zero);
  }
}

}  // namespace qwenserve
