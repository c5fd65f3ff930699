#include "engine/loader/rounded_matrix.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/loader/group_rounding.h"
#include "engine/loader/tensor_errors.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

class RoundedMatrix final : public CheckpointMatrix {
 public:
  RoundedMatrix(const TensorRef& tensor, WeightFormat format, int64_t group_size)
      : CheckpointMatrix(format, NeighbourGroups(tensor.shape[1], group_size),
                         (tensor.shape[1] + group_size - 1) / group_size),
        tensor_(tensor),
        group_size_(group_size) {}

  bool HasZeros(Range /*rows*/) const override { return false; }

  absl::Status ReadRows(Range rows, Range inputs, const MatrixRows& out) const override {
    const int64_t in_features = tensor_.shape[1];
    const int64_t first = inputs.begin / group_size_;
    const int64_t last = (inputs.end - 1) / group_size_;
    const uint8_t middle = format() == WeightFormat::kInt8 ? 128 : 8;
    const int64_t room = std::min(group_size_, in_features) + kRoundingUnit;
    std::vector<float> values(static_cast<size_t>(room));
    std::vector<uint8_t> codes(static_cast<size_t>(room));
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int64_t r = row - rows.begin;
      std::fill_n(out.zeros + r * num_groups(), num_groups(), middle);
      for (int64_t g = first; g <= last; ++g) {
        const int64_t begin = g * group_size_;
        const int64_t count = std::min(group_size_, in_features - begin);
        WidenElements(tensor_, row * in_features + begin, count, values.data());
        std::fill_n(values.begin() + count, kRoundingUnit, 0.0f);
        const absl::Status status = RoundGroup(values.data(), count, format(),
                                               &out.scales[r * num_groups() + g], codes.data());
        if (!status.ok()) return At(row, begin, count, status);
        const int64_t from = std::max(begin, inputs.begin);
        const int64_t to = std::min(begin + count, inputs.end);
        std::memcpy(out.codes + r * out.stride + from - inputs.begin, codes.data() + from - begin,
                    static_cast<size_t>(to - from));
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status At(int64_t row, int64_t begin, int64_t count, const absl::Status& status) const {
    return TensorError(tensor_, "row ", row, ", columns ", begin, " to ", begin + count - 1, ", ",
                       status.message());
  }

  const TensorRef& tensor_;
  const int64_t group_size_;
};

}  // namespace

std::unique_ptr<CheckpointMatrix> MakeRoundedMatrix(const TensorRef& tensor, WeightFormat format,
                                                    int64_t group_size) {
  QS_CHECK(tensor.shape.size() == 2 && group_size > 0);
  return std::make_unique<RoundedMatrix>(tensor, format,
                                         std::min<int64_t>(group_size, tensor.shape[1]));
}

void WidenElements(const TensorRef& tensor, int64_t first, int64_t count, float* out) {
  if (tensor.dtype == DType::kF32) {
    std::memcpy(out, static_cast<const float*>(tensor.data) + first,
                static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const auto* bits = static_cast<const uint16_t*>(tensor.data) + first;
  if (tensor.dtype == DType::kBf16) {
    for (int64_t i = 0; i < count; ++i) out[i] = Bf16ToFloat(bits[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = F16ToFloat(bits[i]);
  }
}

}  // namespace qwenserve
