#include "engine/loader/quantized_module.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/loader/rounded_matrix.h"
#include "engine/loader/safetensors.h"
#include "engine/loader/tensor_errors.h"

namespace qwenserve {
namespace {

using Shape = std::vector<int64_t>;

absl::StatusOr<const TensorRef*> Require(const Checkpoint& checkpoint, const std::string& name,
                                         const Shape& shape, bool is_int32) {
  const TensorRef* tensor = checkpoint.Find(name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(checkpoint.dir(), ": tensor \"", name,
                                                   "\" of shape ", ShapeString(shape),
                                                   " is missing from a quantised module"));
  }
  if (tensor->shape != shape) {
    return TensorError(*tensor, "has shape ", ShapeString(tensor->shape), ", but config.json and ",
                       DescribeQuantization(*checkpoint.config().quantization), " ask for ",
                       ShapeString(shape));
  }
  if (!is_int32 && tensor->dtype != DType::kF16) {
    return TensorError(*tensor, "is ", DTypeName(tensor->dtype), ", must be fp16");
  }
  return tensor;
}

// Groups as g_idx tells them: with act-order any order of full groups, else neighbours.
absl::StatusOr<std::vector<int32_t>> ReadGroups(const TensorRef& g_idx, bool act_order,
                                                int64_t group_size, int64_t num_groups) {
  const int64_t inputs = g_idx.shape[0];
  const auto* values = static_cast<const int32_t*>(g_idx.data);
  std::vector<int32_t> groups(values, values + inputs);
  std::vector<int64_t> members(static_cast<size_t>(num_groups));
  for (int64_t i = 0; i < inputs; ++i) {
    if (groups[i] < 0 || groups[i] >= num_groups) {
      return TensorError(g_idx, "input ", i, " is in group ", groups[i], " of ", num_groups);
    }
    if (!act_order && groups[i] != i / group_size) {
      return TensorError(g_idx, "input ", i, " is in group ", groups[i],
                         ", but desc_act is false and groups of ", group_size, " ask for ",
                         i / group_size);
    }
    ++members[groups[i]];
  }
  for (int64_t g = 0; g < num_groups; ++g) {
    const int64_t full = std::min(group_size, inputs - g * group_size);
    if (members[g] != full) {
      return TensorError(g_idx, "group ", g, " has ", members[g], " inputs, not ", full);
    }
  }
  return groups;
}

// A bias that the model has no place for must say nothing.
absl::Status CheckZeroBias(const TensorRef& bias, int64_t out_features) {
  if (bias.shape != Shape{out_features}) {
    return TensorError(bias, "has shape ", ShapeString(bias.shape), ", must be ",
                       ShapeString(Shape{out_features}));
  }
  std::vector<float> values(static_cast<size_t>(out_features));
  WidenElements(bias, 0, out_features, values.data());
  for (int64_t o = 0; o < out_features; ++o) {
    if (values[o] != 0) {
      return TensorError(bias, "is ", values[o], " at output ", o,
                         ", but the model has no bias there");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<QuantizedModule> OpenQuantizedModule(const Checkpoint& checkpoint,
                                                    const std::string& name, int64_t out_features,
                                                    int64_t in_features, bool bias_has_place) {
  const QuantizationConfig& config = *checkpoint.config().quantization;
  const bool gptq = config.method == QuantizationMethod::kGptq;
  const int64_t per_word = 32 / config.bits;
  const int64_t group_size = config.group_size < 0 ? in_features : config.group_size;
  const int64_t num_groups = (in_features + group_size - 1) / group_size;
  const int64_t packed_axis = gptq ? in_features : out_features;
  if (packed_axis % per_word != 0 || out_features % per_word != 0) {
    return TensorError(*checkpoint.Find(name + ".qweight"), "cannot hold [", out_features, ", ",
                       in_features, "]: words hold ", per_word, " numbers");
  }
  QuantizedModule module;
  const auto require = [&](const char* suffix, Shape shape,
                           bool is_int32) -> absl::StatusOr<const TensorRef*> {
    QS_ASSIGN_OR_RETURN(const TensorRef* tensor,
                        Require(checkpoint, absl::StrCat(name, suffix), shape, is_int32));
    module.tensors.push_back(tensor);
    return tensor;
  };
  QuantizedTensors tensors;
  const Shape words = gptq ? Shape{in_features / per_word, out_features}
                           : Shape{in_features, out_features / per_word};
  QS_ASSIGN_OR_RETURN(tensors.qweight, require(".qweight", words, true));
  QS_ASSIGN_OR_RETURN(tensors.qzeros,
                      require(".qzeros", {num_groups, out_features / per_word}, true));
  QS_ASSIGN_OR_RETURN(tensors.scales, require(".scales", {num_groups, out_features}, false));
  std::vector<int32_t> groups = NeighbourGroups(in_features, group_size);
  if (gptq && (config.act_order || checkpoint.Find(name + ".g_idx") != nullptr)) {
    QS_ASSIGN_OR_RETURN(tensors.g_idx, require(".g_idx", {in_features}, true));
    QS_ASSIGN_OR_RETURN(groups,
                        ReadGroups(*tensors.g_idx, config.act_order, group_size, num_groups));
  }
  const TensorRef* bias = bias_has_place ? nullptr : checkpoint.Find(name + ".bias");
  if (bias != nullptr) {
    QS_RETURN_IF_ERROR(CheckZeroBias(*bias, out_features));
    module.tensors.push_back(bias);
  }
  module.matrix = gptq ? MakeGptqMatrix(tensors, config, std::move(groups), num_groups)
                       : MakeAwqMatrix(tensors, std::move(groups), num_groups);
  return module;
}

}  // namespace qwenserve
