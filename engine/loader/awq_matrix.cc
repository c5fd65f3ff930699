#include <utility>
#include <vector>

#include "engine/loader/packed_groups.h"
#include "engine/loader/quantized_module.h"

namespace qwenserve {
namespace {

constexpr int64_t kPerWord = 8;

class AwqMatrix final : public CheckpointMatrix {
 public:
  AwqMatrix(const QuantizedTensors& tensors, std::vector<int32_t> groups, int64_t num_groups)
      : CheckpointMatrix(WeightFormat::kInt4, std::move(groups), num_groups),
        qweight_(*tensors.qweight),
        groups_of_outputs_(tensors, 4, 0, true) {}

  bool HasZeros(Range rows) const override { return groups_of_outputs_.HasZeros(rows); }

  absl::Status ReadRows(Range rows, Range inputs, const MatrixRows& out) const override {
    const int64_t width = qweight_.shape[1];
    const auto* words = static_cast<const uint32_t*>(qweight_.data);
    for (int64_t i = inputs.begin; i < inputs.end; ++i) {
      uint8_t* target = out.codes + i - inputs.begin;
      for (int64_t o = rows.begin; o < rows.end; ++o, target += out.stride) {
        const uint32_t word = words[i * width + o / kPerWord];
        *target = static_cast<uint8_t>(word >> (4 * kAwqPlace[o % kPerWord]) & 15u);
      }
    }
    return groups_of_outputs_.Read(rows, groups()[inputs.begin], groups()[inputs.end - 1],
                                   num_groups(), out);
  }

 private:
  const TensorRef& qweight_;
  const PackedGroups groups_of_outputs_;
};

}  // namespace

std::unique_ptr<CheckpointMatrix> MakeAwqMatrix(const QuantizedTensors& tensors,
                                                std::vector<int32_t> groups, int64_t num_groups) {
  return std::make_unique<AwqMatrix>(tensors, std::move(groups), num_groups);
}

}  // namespace qwenserve
