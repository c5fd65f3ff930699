#include "kernels/cpu/packed_weight.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

// Elements that tell their row and place, small enough to be exact in every type.
float Element(int64_t row, int64_t k) { return static_cast<float>((row * 37 + k) % 2048 - 1024); }

std::vector<char> Rows(int64_t first, int64_t rows, int64_t stride, DType dtype) {
  const size_t size = DTypeBytes(dtype);
  std::vector<char> bytes(static_cast<size_t>(rows * stride) * size);
  for (int64_t i = 0; i < rows * stride; ++i) {
    const float value = Element(first + i / stride, i % stride);
    const uint16_t half = dtype == DType::kF16 ? FloatToF16(value) : FloatToBf16(value);
    if (dtype == DType::kF32) {
      std::memcpy(bytes.data() + i * 4, &value, 4);
    } else {
      std::memcpy(bytes.data() + i * 2, &half, 2);
    }
  }
  return bytes;
}

// Blocks of 5, 20 and 8 rows, cut out of wider ones, in two separate ranges of panels.
TEST(PackedWeightTest, RowsComeBackAsTheyWere) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (const bool pairs : {false, true}) {
      for (const int64_t in : {1, 3, 8, 31, 64, 100}) {
        const int64_t stride = in + 3;
        std::vector<std::vector<char>> data;
        std::vector<RowBlock> blocks;
        int64_t first = 0;
        for (const int64_t rows : {5, 20, 8}) {
          data.push_back(Rows(first, rows, stride, dtype));
          blocks.push_back({data.back().data(), dtype, rows, stride});
          first += rows;
        }
        LinearWeight weight;
        weight.format = static_cast<WeightFormat>(dtype);
        weight.out_features = first;
        weight.in_features = in;
        std::vector<char> packed(PackedBytes(weight.format, first, in, pairs));
        weight.data = Buffer(packed.data(), packed.size(), [](void*) {});
        PackPanels(blocks, in, 1, 3, pairs, packed.data());
        PackPanels(blocks, in, 0, 1, pairs, packed.data());
        std::vector<float> row(static_cast<size_t>(in));
        for (int64_t r = 0; r < first; ++r) {
          ReadPackedRow(weight, r, pairs, row.data());
          for (int64_t k = 0; k < in; ++k) {
            ASSERT_EQ(row[k], dtype == DType::kBf16 ? Bf16ToFloat(FloatToBf16(Element(r, k)))
                                                    : Element(r, k))
                << DTypeName(dtype) << " row " << r << " input " << k << " of " << in;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace qwenserve
