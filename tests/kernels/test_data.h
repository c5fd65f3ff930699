#ifndef QWENSERVE_TESTS_KERNELS_TEST_DATA_H_
#define QWENSERVE_TESTS_KERNELS_TEST_DATA_H_

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"

namespace qwenserve {

// Half a unit in the last place of 1.0f: the relative error of one rounding to float.
inline constexpr double kFloatRounding = 0x1p-24;
// Likewise of one rounding to bf16.
inline constexpr double kBf16Rounding = 0x1p-8;

// The same numbers on every platform: the engine's output is defined by the standard, the
// distributions of <random> are not.
class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  uint32_t Below(uint32_t bound) { return engine_() % bound; }
  // Roughly normal, standard deviation `scale`.
  float Normal(float scale = 1.0f) {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += engine_() * 0x1p-32;
    return static_cast<float>((sum - 6.0) * scale);
  }
  std::vector<float> Normals(int64_t count, float scale = 1.0f) {
    std::vector<float> values(count);
    for (float& v : values) v = Normal(scale);
    return values;
  }
  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Below(i)]);
  }

 private:
  std::mt19937 engine_;
};

// A random matrix [rows, columns] in some dtype. fp16 includes subnormals.
struct HostMatrix {
  HostMatrix(Random& random, DType type, int64_t num_rows, int64_t num_columns)
      : dtype(type), rows(num_rows), columns(num_columns) {
    for (int64_t i = 0; i < rows * columns; ++i) {
      const float value = random.Normal();
      floats.push_back(value);
      bf16.push_back(FloatToBf16(value));
      // Any sign, exponents 0..16 of 0..30: magnitudes below 4.
      f16.push_back(static_cast<uint16_t>(random.Below(2) << 15 | random.Below(17) << 10 |
                                          random.Below(1024)));
    }
  }
  const void* data() const {
    if (dtype == DType::kF32) return floats.data();
    return dtype == DType::kBf16 ? bf16.data() : f16.data();
  }
  double At(int64_t row, int64_t column) const {
    const int64_t i = row * columns + column;
    if (dtype == DType::kF32) return floats[i];
    return dtype == DType::kBf16 ? Bf16ToFloat(bf16[i]) : F16ToFloat(f16[i]);
  }
  RowBlock Rows(int64_t first, int64_t count) const {
    const char* start =
        static_cast<const char*>(data()) + static_cast<size_t>(first * columns) * DTypeBytes(dtype);
    return {.data = start, .dtype = dtype, .rows = count, .row_stride = columns};
  }
  absl::StatusOr<LinearWeight> TryPack(Backend& backend) const {
    const RowBlock block = Rows(0, rows);
    return backend.PackLinear({&block, 1}, columns);
  }
  LinearWeight Pack(Backend& backend) const {
    absl::StatusOr<LinearWeight> weight = TryPack(backend);
    EXPECT_TRUE(weight.ok()) << weight.status();
    return *std::move(weight);
  }
  // As a device keeps it that has rounded it to the format of `packed`.
  HostMatrix AsPacked(const LinearWeight& packed) const {
    HostMatrix kept = *this;
    if (packed.format != WeightFormat::kBf16 || dtype == DType::kBf16) return kept;
    for (int64_t i = 0; i < rows * columns; ++i) {
      kept.bf16[i] = FloatToBf16(static_cast<float>(At(i / columns, i % columns)));
    }
    kept.dtype = DType::kBf16;
    return kept;
  }

  DType dtype;
  int64_t rows, columns;
  std::vector<float> floats;
  std::vector<uint16_t> bf16, f16;
};

// Random codes, scales and zeros in the checkpoint's terms.
class RandomQuantizedRows final : public QuantizedRowSource {
 public:
  RandomQuantizedRows(Random& random, const QuantizedShape& shape) : shape_(shape) {
    const uint32_t codes = shape.format == WeightFormat::kInt8 ? 256 : 16;
    const int64_t count = shape.out_features * shape.groups();
    for (int64_t i = 0; i < shape.out_features * shape.packed_inputs(); ++i) {
      codes_.push_back(static_cast<uint8_t>(random.Below(codes)));
    }
    for (int64_t i = 0; i < count; ++i) {
      scales_.push_back(static_cast<uint16_t>(0x2000 + random.Below(0x800)));
      zeros_.push_back(
          static_cast<uint8_t>(random.Below(codes + 1) > 255 ? 255 : random.Below(codes)));
    }
  }

  absl::Status ReadRows(int64_t begin, int64_t end, const QuantizedRows& rows) const override {
    const int64_t inputs = shape_.packed_inputs(), groups = shape_.groups();
    for (int64_t i = begin * inputs; i < end * inputs; ++i)
      rows.codes[i - begin * inputs] = codes_[i];
    for (int64_t i = begin * groups; i < end * groups; ++i) {
      rows.scales[i - begin * groups] = scales_[i];
      if (shape_.has_zeros) rows.zeros[i - begin * groups] = zeros_[i];
    }
    return absl::OkStatus();
  }

 private:
  const QuantizedShape shape_;
  std::vector<uint8_t> codes_, zeros_;
  std::vector<uint16_t> scales_;
};

// Both formats, with and without zero points, in order and not.
inline std::vector<QuantizedShape> QuantizedShapes(Random& random, int64_t out, int64_t in,
                                                   int64_t group_size) {
  std::vector<QuantizedShape> shapes;
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (bool zeros : {false, true}) {
      for (bool ordered : {false, true}) {
        QuantizedShape shape{format, out, in, group_size, zeros, {}};
        if (ordered) {
          // All inputs once, and a block with holes.
          for (int32_t i = 0; i < in; ++i) shape.input_order.push_back(i);
          random.Shuffle(shape.input_order);
          while (shape.input_order.size() % kQuantBlock != 0) shape.input_order.push_back(-1);
        }
        shapes.push_back(shape);
      }
    }
  }
  return shapes;
}

// The types of weights that the device packs.
inline std::vector<DType> WeightTypes(Backend& backend) {
  std::vector<DType> types;
  Random random(1);
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const auto packed = HostMatrix(random, dtype, 16, 64).TryPack(backend);
    EXPECT_TRUE(packed.ok() || absl::IsUnimplemented(packed.status())) << packed.status();
    if (packed.ok()) types.push_back(dtype);
  }
  return types;
}

// The instruction sets that this machine has.
inline std::vector<std::string> AvailableIsas() {
  std::vector<std::string> isas = {"portable"};
  for (const char* isa : {"avx2", "avx512", "avx512bf16"}) {
    if (MakeCpuBackend({.isa = isa}).ok()) isas.push_back(isa);
  }
  return isas;
}

inline std::unique_ptr<Backend> Cpu(const std::string& isa, int threads = 2) {
  absl::StatusOr<std::unique_ptr<Backend>> backend =
      MakeCpuBackend({.num_threads = threads, .isa = isa});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

// Whether products with such weights have an order of their own, of a machine's dot of bf16 pairs.
inline bool DotsBf16(const Backend& backend, DType weights) {
  return weights == DType::kBf16 &&
         backend.kernel_table(WeightFormat::kBf16) != backend.kernel_table(WeightFormat::kF32);
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_TEST_DATA_H_
