#include "engine/loader/dummy_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "engine/base/split_mix.h"
#include "engine/base/status_macros.h"
#include "engine/loader/planned_weights.h"
#include "engine/loader/weight_fields.h"

namespace qwenserve {
namespace {

// Elements of a block of random numbers beyond one row: windows begin at any of them.
constexpr int64_t kWindows = int64_t{1} << 20;
// Rows of a matrix that one window gives, one below the other.
constexpr int64_t kWindowRows = 64;

// A cheap sequence of 64 bit numbers.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed) {}
  uint64_t Next() { return SplitMix(state_ += kSplitMixStep); }
  static uint64_t At(uint64_t seed, uint64_t index) {
    return SplitMix(seed + (index + 1) * kSplitMixStep);
  }

 private:
  uint64_t state_;
};

// Where the window of row (or block of rows) `index` of a field begins.
int64_t WindowOf(const PlannedField& field, int64_t index) {
  const auto seed = static_cast<uint64_t>(field.field) << 32 | static_cast<uint32_t>(field.layer);
  return static_cast<int64_t>(Numbers::At(seed, static_cast<uint64_t>(index)) %
                              static_cast<uint64_t>(kWindows));
}

// With weights of this deviation a product is as large as its inputs. The embedding is larger, so
// that tokens differ by more than rounding.
double DeviationOf(const PlannedField& field) {
  if (field.field == WeightField::kEmbedding) return 0.5;
  return 1 / std::sqrt(static_cast<double>(field.in_features));
}

// The sum of four uniform numbers of 16 bits: near enough to a normal one, deviation 1, no larger
// than 3.5.
float NearNormal(uint64_t bits) {
  const int64_t sum = static_cast<int64_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                           (bits >> 32 & 0xffff) + (bits >> 48)) -
                      2 * 0xffff;
  return static_cast<float>(static_cast<double>(sum) / (65536 / std::sqrt(3.0)));
}

// Codes of a quantised matrix from one block of random bytes, all scales equal.
class DummyRows final : public QuantizedRowSource {
 public:
  DummyRows(const PlannedField& field, const std::vector<uint8_t>& codes)
      : field_(field), shape_(*field.quantized), codes_(codes) {
    // Of codes 0 .. 15 and 0 .. 255 around their middle.
    const double spread = shape_.format == WeightFormat::kInt4 ? 4.61 : 73.9;
    scale_ = FloatToF16(static_cast<float>(DeviationOf(field) / spread));
  }

  absl::Status ReadRows(int64_t begin, int64_t end, const QuantizedRows& rows) const override {
    const bool int4 = shape_.format == WeightFormat::kInt4;
    const int64_t inputs = shape_.packed_inputs(), groups = shape_.groups();
    for (int64_t row = begin; row < end; ++row) {
      uint8_t* codes = rows.codes + (row - begin) * inputs;
      std::memcpy(codes, codes_.data() + WindowOf(field_, row), static_cast<size_t>(inputs));
      if (int4) std::for_each(codes, codes + inputs, [](uint8_t& code) { code &= 15; });
    }
    std::fill_n(rows.scales, (end - begin) * groups, scale_);
    if (shape_.has_zeros) {
      std::fill_n(rows.zeros, (end - begin) * groups, static_cast<uint8_t>(int4 ? 8 : 128));
    }
    return absl::OkStatus();
  }

 private:
  const PlannedField& field_;
  const QuantizedShape& shape_;
  const std::vector<uint8_t>& codes_;
  uint16_t scale_;
};

class DummyMaker {
 public:
  DummyMaker(Backend& backend, const LoadProgress& progress)
      : backend_(backend), progress_(progress) {}

  absl::StatusOr<ModelWeights> Make(const std::vector<PlannedField>& fields, int64_t num_layers) {
    ModelWeights weights;
    weights.layers.resize(static_cast<size_t>(num_layers));
    int64_t done = 0, total = 0;
    for (const PlannedField& field : fields) total += PlannedBytes(field, DeviceKind::kCpu);
    for (const PlannedField& field : fields) {
      if (IsVector(field.field)) {
        QS_ASSIGN_OR_RETURN(VectorOf(weights, field.field, field.layer), MakeVector(field));
      } else {
        QS_ASSIGN_OR_RETURN(MatrixOf(weights, field.field, field.layer), MakeMatrix(field));
      }
      done += PlannedBytes(field, DeviceKind::kCpu);
      if (progress_) progress_(done, total);
    }
    return weights;
  }

 private:
  absl::StatusOr<Buffer> MakeVector(const PlannedField& field) {
    const float middle = field.field == WeightField::kQkvBias ? 0.0f : 1.0f;
    Numbers numbers(static_cast<uint64_t>(WindowOf(field, 0)));
    std::vector<float> values(static_cast<size_t>(field.out_features));
    for (float& value : values) value = middle + 0.02f * NearNormal(numbers.Next());
    const size_t bytes = values.size() * sizeof(float);
    QS_ASSIGN_OR_RETURN(Buffer buffer, backend_.Allocate(bytes));
    backend_.CopyToDevice(values.data(), bytes, buffer.data());
    return buffer;
  }

  absl::StatusOr<LinearWeight> MakeMatrix(const PlannedField& field) {
    if (field.quantized.has_value()) {
      return backend_.PackQuantized(*field.quantized, DummyRows(field, CodesFor(field)));
    }
    const std::vector<uint8_t>& numbers = FloatsFor(field);
    const auto element = static_cast<int64_t>(DTypeBytes(field.dtype));
    std::vector<RowBlock> blocks;
    for (int64_t row = 0; row < field.out_features; row += kWindowRows) {
      blocks.push_back({numbers.data() + WindowOf(field, row) * element, field.dtype,
                        std::min(kWindowRows, field.out_features - row), field.in_features});
    }
    return backend_.PackLinear(blocks, field.in_features);
  }

  const std::vector<uint8_t>& CodesFor(const PlannedField& field) {
    const auto size = static_cast<size_t>(kWindows + field.quantized->packed_inputs());
    Numbers numbers(codes_.size());
    while (codes_.size() < size) codes_.push_back(static_cast<uint8_t>(numbers.Next() >> 56));
    return codes_;
  }

  // As the field's type holds them, of its deviation.
  const std::vector<uint8_t>& FloatsFor(const PlannedField& field) {
    std::vector<uint8_t>& bytes =
        floats_[{field.in_features, field.dtype, field.field == WeightField::kEmbedding}];
    if (!bytes.empty()) return bytes;
    const size_t element = DTypeBytes(field.dtype);
    const auto count = static_cast<size_t>(kWindows + kWindowRows * field.in_features);
    bytes.resize(count * element);
    Numbers numbers(static_cast<uint64_t>(field.in_features));
    const auto scale = static_cast<float>(DeviationOf(field));
    for (size_t i = 0; i < count; ++i) {
      const float value = scale * NearNormal(numbers.Next());
      const uint16_t half = field.dtype == DType::kF16 ? FloatToF16(value) : FloatToBf16(value);
      const void* from = &half;
      if (field.dtype == DType::kF32) from = &value;
      std::memcpy(bytes.data() + i * element, from, element);
    }
    return bytes;
  }

  struct Kind {
    int64_t in_features;
    DType dtype;
    bool embedding;
    auto operator<=>(const Kind&) const = default;
  };

  Backend& backend_;
  const LoadProgress& progress_;
  std::vector<uint8_t> codes_;
  std::map<Kind, std::vector<uint8_t>> floats_;
};

}  // namespace

absl::StatusOr<ModelWeights> MakeDummyWeights(const ModelConfig& config, const ShardPlan& shard,
                                              WeightChoice choice, Backend& backend,
                                              const LoadProgress& progress) {
  QS_ASSIGN_OR_RETURN(const std::vector<PlannedField> fields, PlanWeights(config, shard, choice));
  return DummyMaker(backend, progress).Make(fields, config.num_layers);
}

}  // namespace qwenserve
