#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/loader/packed_groups.h"
#include "engine/loader/packed_words.h"
#include "engine/loader/quantized_module.h"

namespace qwenserve {
namespace {

class GptqMatrix final : public CheckpointMatrix {
 public:
  GptqMatrix(const QuantizedTensors& tensors, const QuantizationConfig& config,
             std::vector<int32_t> groups, int64_t num_groups)
      : CheckpointMatrix(config.bits == 4 ? WeightFormat::kInt4 : WeightFormat::kInt8,
                         std::move(groups), num_groups),
        qweight_(*tensors.qweight),
        groups_of_outputs_(tensors, config.bits, config.zero_minus_one ? 1 : 0, false),
        act_order_(config.act_order) {}

  bool HasZeros(Range rows) const override { return groups_of_outputs_.HasZeros(rows); }

  absl::Status ReadRows(Range rows, Range inputs, const MatrixRows& out) const override {
    if (format() == WeightFormat::kInt4) {
      Unpack<8>(rows, inputs, out);
    } else {
      Unpack<4>(rows, inputs, out);
    }
    const int64_t first = act_order_ ? 0 : groups()[inputs.begin];
    const int64_t last = act_order_ ? num_groups() - 1 : groups()[inputs.end - 1];
    return groups_of_outputs_.Read(rows, first, last, num_groups(), out);
  }

 private:
  template <int64_t kPerWord>
  void Unpack(Range rows, Range inputs, const MatrixRows& out) const {
    // Down the word rows, so that neighbouring outputs come from one cache line.
    for (int64_t w = inputs.begin / kPerWord; w * kPerWord < inputs.end; ++w) {
      const auto* words = static_cast<const uint32_t*>(qweight_.data) + w * qweight_.shape[1];
      const int64_t from = std::max(inputs.begin, w * kPerWord);
      const int64_t count = std::min(inputs.end, (w + 1) * kPerWord) - from;
      uint8_t* target = out.codes + from - inputs.begin;
      for (int64_t o = rows.begin; o < rows.end; ++o, target += out.stride) {
        const uint64_t bytes = kPerWord == 8 ? SpreadNibbles(words[o]) : words[o];
        if (count == kPerWord) {
          std::memcpy(target, &bytes, kPerWord);
        } else {
          const uint64_t wanted = bytes >> (8 * (from - w * kPerWord));
          std::memcpy(target, &wanted, static_cast<size_t>(count));
        }
      }
    }
  }

  const TensorRef& qweight_;
  const PackedGroups groups_of_outputs_;
  const bool act_order_;
};

}  // namespace

std::unique_ptr<CheckpointMatrix> MakeGptqMatrix(const QuantizedTensors& tensors,
                                                 const QuantizationConfig& config,
                                                 std::vector<int32_t> groups, int64_t num_groups) {
  return std::make_unique<GptqMatrix>(tensors, config, std::move(groups), num_groups);
}

}  // namespace qwenserve
