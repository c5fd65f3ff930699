#include "engine/loader/planned_weights.h"

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/base/status_macros.h"
#include "engine/loader/checkpoint_matrix.h"
#include "engine/loader/group_plan.h"
#include "engine/loader/matrix_loader.h"

namespace qwenserve {
namespace {

// The groups of act-order: neighbours are of different groups.
std::vector<int32_t> SpreadGroups(int64_t inputs, int64_t group_size) {
  const int64_t count = (inputs + group_size - 1) / group_size;
  std::vector<int32_t> groups(static_cast<size_t>(inputs));
  for (int64_t i = 0; i < inputs; ++i) groups[i] = static_cast<int32_t>(i % count);
  return groups;
}

QuantizedShape ShapeOf(WeightFormat format, const std::vector<int32_t>& groups, Range columns) {
  GroupPlan plan = PlanGroups(absl::MakeConstSpan(groups).subspan(
      static_cast<size_t>(columns.begin), static_cast<size_t>(columns.size())));
  QuantizedShape shape;
  shape.format = format;
  shape.in_features = columns.size();
  shape.group_size = plan.group_size;
  shape.input_order = std::move(plan.input_order);
  return shape;
}

// Of a matrix of which a rank takes `columns` out of `inputs`; nothing where it is not quantised.
std::optional<QuantizedShape> QuantizedFormOf(const ModelConfig& config, WeightChoice choice,
                                              WeightField field, int64_t inputs, Range columns) {
  const bool vocabulary = field == WeightField::kEmbedding || field == WeightField::kHead;
  if (config.quantization.has_value() && !vocabulary) {
    const QuantizationConfig& stored = *config.quantization;
    const int64_t size = stored.group_size < 0 ? inputs : stored.group_size;
    QuantizedShape shape = ShapeOf(
        stored.bits == 4 ? WeightFormat::kInt4 : WeightFormat::kInt8,
        stored.act_order ? SpreadGroups(inputs, size) : NeighbourGroups(inputs, size), columns);
    shape.has_zeros = !stored.symmetric;
    return shape;
  }
  const std::optional<Rounding> rounding = RoundingFor(choice, field);
  if (!rounding.has_value()) return std::nullopt;
  return ShapeOf(rounding->format, NeighbourGroups(inputs, rounding->group_size), columns);
}

}  // namespace

absl::Status CheckWeightChoice(const ModelConfig& config, WeightChoice choice,
                               const std::string& source) {
  // Asking for the width that it has rounds what it left in float, which is the embedding and the
  // head.
  const auto& stored = config.quantization;
  if (!stored.has_value() || choice == WeightChoice::kAuto) return absl::OkStatus();
  if (choice == (stored->bits == 4 ? WeightChoice::kInt4 : WeightChoice::kInt8)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("weights \"", WeightChoiceName(choice), "\" do not fit ", source,
                   ", which is quantised already (", DescribeQuantization(*stored),
                   "); use auto, or the float checkpoint of the model"));
}

absl::StatusOr<std::vector<PlannedField>> PlanWeights(const ModelConfig& config,
                                                      const ShardPlan& shard, WeightChoice choice) {
  QS_RETURN_IF_ERROR(CheckWeightChoice(config, choice, "this checkpoint"));
  std::vector<PlannedField> fields;
  for (const WeightPart& part : WeightParts(config, shard)) {
    const bool vector = IsVector(part.field);
    if (fields.empty() || fields.back().field != part.field || fields.back().layer != part.layer) {
      PlannedField field;
      field.field = part.field;
      field.layer = part.layer;
      field.in_features = part.columns.size();
      if (!vector) {
        field.dtype = choice == WeightChoice::kBf16 ? DType::kBf16 : config.float_type;
        field.quantized = QuantizedFormOf(config, choice, part.field, part.shape[1], part.columns);
      }
      fields.push_back(std::move(field));
    }
    PlannedField& field = fields.back();
    field.out_features += part.rows.size();
    if (part.field == WeightField::kEmbedding || part.field == WeightField::kHead) {
      field.out_features = shard.max_vocab_rows;
    }
    if (field.quantized.has_value()) field.quantized->out_features = field.out_features;
  }
  return fields;
}

PackedShape PackedShapeOf(const PlannedField& field) {
  PackedShape shape;
  shape.format = static_cast<WeightFormat>(field.dtype);
  shape.out_features = field.out_features;
  shape.in_features = field.in_features;
  if (field.quantized.has_value()) {
    shape.format = field.quantized->format;
    shape.packed_inputs = field.quantized->packed_inputs();
    shape.reordered = !field.quantized->input_order.empty();
  }
  return shape;
}

int64_t PlannedBytes(const PlannedField& field, DeviceKind kind) {
  if (IsVector(field.field)) return field.out_features * static_cast<int64_t>(sizeof(float));
  if (field.quantized.has_value()) return QuantizedBytes(kind, *field.quantized);
  return LinearBytes(kind, field.dtype, field.out_features, field.in_features);
}

}  // namespace qwenserve
