#include "engine/quantize/layer_source.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/loader/safetensors.h"
#include "engine/parallel/shard_plan.h"

namespace qwenserve {
namespace {

void ToFloat(const void* data, DType dtype, int64_t first, int64_t count, float* out) {
  const auto* bytes =
      static_cast<const uint8_t*>(data) + first * static_cast<int64_t>(DTypeBytes(dtype));
  if (dtype == DType::kF32) {
    std::memcpy(out, bytes, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * i, sizeof(bits));
    out[i] = dtype == DType::kBf16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
  }
}

}  // namespace

absl::StatusOr<LayerSource> LayerSource::Create(const Checkpoint& checkpoint) {
  if (const auto& quantization = checkpoint.config().quantization; quantization.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat(
        checkpoint.dir(), ": this model is quantised already (",
        DescribeQuantization(*quantization), "); give its bf16, fp16 or f32 checkpoint"));
  }
  LayerSource source(checkpoint);
  QS_ASSIGN_OR_RETURN(const ShardPlan shard, MakeShardPlan(checkpoint.config(), 1, 0));
  for (const WeightPart& part : WeightParts(checkpoint.config(), shard)) {
    const TensorRef* tensor = checkpoint.Find(part.tensor);
    if (tensor == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(checkpoint.dir(), ": tensor \"", part.tensor,
                                                     "\" of shape ", ShapeString(part.shape),
                                                     " is missing"));
    }
    if (tensor->shape != part.shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          tensor->file, ": tensor \"", ShownText(tensor->name), "\" has shape ",
          ShapeString(tensor->shape), ", but config.json asks for ", ShapeString(part.shape)));
    }
    FieldTensors& field = source.fields_[{part.layer, part.field}];
    if (!field.tensors.empty() && field.tensors.back() == tensor) continue;  // a fused tensor
    field.tensors.push_back(tensor);
    field.rows += part.shape[0];
    field.columns = part.shape.size() > 1 ? part.shape[1] : 1;
  }
  return source;
}

const FieldTensors* LayerSource::Find(int64_t layer, WeightField field) const {
  const auto found = fields_.find({layer, field});
  return found == fields_.end() ? nullptr : &found->second;
}

std::vector<float> LayerSource::Read(int64_t layer, WeightField field) const {
  const FieldTensors* found = Find(layer, field);
  if (found == nullptr) return {};
  std::vector<float> values(static_cast<size_t>(found->rows * found->columns));
  float* out = values.data();
  for (const TensorRef* tensor : found->tensors) {
    const int64_t count = tensor->bytes / static_cast<int64_t>(DTypeBytes(tensor->dtype));
    ToFloat(tensor->data, tensor->dtype, 0, count, out);
    checkpoint_->ReleasePages(*tensor);
    out += count;
  }
  return values;
}

void LayerSource::ReadRow(int64_t layer, WeightField field, int64_t row, float* out) const {
  const FieldTensors& found = *Find(layer, field);
  const TensorRef& tensor = *found.tensors.front();
  ToFloat(tensor.data, tensor.dtype, row * found.columns, found.columns, out);
}

}  // namespace qwenserve
