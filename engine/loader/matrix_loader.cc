#include "engine/loader/matrix_loader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/loader/group_plan.h"
#include "engine/loader/group_rounding.h"
#include "engine/loader/rounded_matrix.h"
#include "engine/loader/stacked_rows.h"
#include "engine/loader/tensor_errors.h"

namespace qwenserve {
namespace {

bool IsVocabulary(WeightField field) {
  return field == WeightField::kEmbedding || field == WeightField::kHead;
}

int64_t CountRows(absl::Span<const WeightSource> sources) {
  int64_t rows = 0;
  for (const WeightSource& source : sources) rows += source.part.rows.size();
  return rows;
}

absl::StatusOr<LinearWeight> LoadFloats(absl::Span<const WeightSource> sources, WeightChoice choice,
                                        int64_t padded_rows, Backend& backend) {
  const int64_t in_features = sources.front().part.columns.size();
  const TensorRef& first = *sources.front().tensor;
  const size_t element = DTypeBytes(first.dtype);
  std::vector<RowBlock> blocks;
  for (const WeightSource& source : sources) {
    if (source.tensor->dtype != first.dtype) {
      return TensorError(
          *source.tensor, "and \"", ShownText(first.name),
          "\" have different dtypes, but are one matrix of the model; save both in one dtype");
    }
    if (choice == WeightChoice::kBf16 && source.tensor->dtype != DType::kBf16) {
      return absl::InvalidArgumentError(
          absl::StrCat(TensorPlace(*source.tensor), " is ", DTypeName(source.tensor->dtype),
                       ", but bf16 weights were asked for; use auto to take weights as they are"));
    }
    const int64_t stride = source.part.shape[1];
    const int64_t begin = (source.part.rows.begin * stride + source.part.columns.begin) *
                          static_cast<int64_t>(element);
    blocks.push_back({static_cast<const uint8_t*>(source.tensor->data) + begin, first.dtype,
                      source.part.rows.size(), stride, source.tensor->fd,
                      source.tensor->offset + begin});
  }
  const int64_t missing = std::max<int64_t>(padded_rows - CountRows(sources), 0);
  const std::vector<uint8_t> zeros(static_cast<size_t>(missing * in_features) * element);
  if (missing > 0) blocks.push_back({zeros.data(), first.dtype, missing, in_features});
  return backend.PackLinear(blocks, in_features);
}

// The rows of a quantised matrix as floats, exactly: a scale has 11 significant bits, code -
// zero 9.
absl::Status Dequantize(const CheckpointMatrix& matrix, Range rows, Range columns, float* out) {
  const int64_t width = columns.size(), groups = matrix.num_groups();
  std::vector<uint8_t> codes(static_cast<size_t>(width));
  std::vector<uint16_t> scales(static_cast<size_t>(groups));
  std::vector<uint8_t> zeros(static_cast<size_t>(groups));
  for (int64_t row = rows.begin; row < rows.end; ++row, out += width) {
    QS_RETURN_IF_ERROR(matrix.ReadRows({row, row + 1}, columns,
                                       {codes.data(), width, scales.data(), zeros.data()}));
    for (int64_t i = 0; i < width; ++i) {
      const int32_t g = matrix.groups()[columns.begin + i];
      out[i] = F16ToFloat(scales[g]) * static_cast<float>(codes[i] - zeros[g]);
    }
  }
  return absl::OkStatus();
}

// For parts without a common quantised form. Needs the whole matrix twice; no released checkpoint
// comes here.
absl::StatusOr<LinearWeight> LoadAsFloats(absl::Span<const WeightSource> sources,
                                          absl::Span<const MatrixPart> parts, int64_t padded_rows,
                                          Backend& backend) {
  const Range columns = sources.front().part.columns;
  const int64_t rows = std::max(padded_rows, CountRows(sources));
  std::vector<float> values(static_cast<size_t>(rows * columns.size()));
  float* out = values.data();
  for (size_t i = 0; i < sources.size(); ++i) {
    const Range mine = sources[i].part.rows;
    if (parts[i].matrix != nullptr) {
      QS_RETURN_IF_ERROR(Dequantize(*parts[i].matrix, mine, columns, out));
    } else {
      for (int64_t row = 0; row < mine.size(); ++row) {
        WidenElements(*sources[i].tensor,
                      (mine.begin + row) * sources[i].part.shape[1] + columns.begin, columns.size(),
                      out + row * columns.size());
      }
    }
    out += mine.size() * columns.size();
  }
  const RowBlock block = {values.data(), DType::kF32, rows, columns.size()};
  return backend.PackLinear({&block, 1}, columns.size());
}

// The parts of a matrix, rounded ones included; null where a part is float and stays it.
std::vector<MatrixPart> PartsOf(absl::Span<const WeightSource> sources, WeightChoice choice) {
  const std::optional<Rounding> rounding = RoundingFor(choice, sources.front().part.field);
  std::vector<MatrixPart> parts;
  for (const WeightSource& source : sources) {
    MatrixPart part = {source.matrix, source.part.rows};
    if (source.tensor != nullptr && rounding.has_value()) {
      part.matrix = MakeRoundedMatrix(*source.tensor, rounding->format, rounding->group_size);
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

bool AllFloat(absl::Span<const MatrixPart> parts) {
  return std::all_of(parts.begin(), parts.end(),
                     [](const MatrixPart& part) { return part.matrix == nullptr; });
}

// Whether the parts can be packed as one quantised matrix.
bool QuantizedAlike(absl::Span<const MatrixPart> parts) {
  const CheckpointMatrix* first = parts.front().matrix.get();
  return std::all_of(parts.begin(), parts.end(), [&](const MatrixPart& part) {
    return part.matrix != nullptr && first != nullptr && part.matrix->format() == first->format() &&
           part.matrix->groups() == first->groups();
  });
}

}  // namespace

std::optional<Rounding> RoundingFor(WeightChoice choice, WeightField field) {
  if (choice != WeightChoice::kInt8 && choice != WeightChoice::kInt4) return std::nullopt;
  constexpr int64_t kWholeRow = int64_t{1} << 40;
  if (IsVocabulary(field)) return Rounding{WeightFormat::kInt8, kWholeRow};
  const bool int8 = choice == WeightChoice::kInt8;
  return Rounding{int8 ? WeightFormat::kInt8 : WeightFormat::kInt4, kRoundedGroup};
}

absl::StatusOr<LinearWeight> LoadMatrix(absl::Span<const WeightSource> sources, WeightChoice choice,
                                        int64_t padded_rows, Backend& backend,
                                        const std::function<void(int64_t)>& on_rows) {
  const std::vector<MatrixPart> parts = PartsOf(sources, choice);
  if (AllFloat(parts)) return LoadFloats(sources, choice, padded_rows, backend);
  if (!QuantizedAlike(parts)) return LoadAsFloats(sources, parts, padded_rows, backend);
  const StackedRows stacked(parts, sources.front().part.columns, parts.front().matrix->format(),
                            std::max(padded_rows, CountRows(sources)), on_rows);
  return backend.PackQuantized(stacked.shape(), stacked);
}

int64_t LoadedMatrixBytes(absl::Span<const WeightSource> sources, WeightChoice choice,
                          int64_t padded_rows) {
  constexpr int64_t kRowUnit = 16;
  const std::vector<MatrixPart> parts = PartsOf(sources, choice);
  const Range columns = sources.front().part.columns;
  const int64_t rows =
      (std::max(padded_rows, CountRows(sources)) + kRowUnit - 1) / kRowUnit * kRowUnit;
  if (AllFloat(parts)) {
    return rows * columns.size() * static_cast<int64_t>(DTypeBytes(sources.front().tensor->dtype));
  }
  if (!QuantizedAlike(parts)) return rows * columns.size() * static_cast<int64_t>(sizeof(float));
  const CheckpointMatrix& first = *parts.front().matrix;
  const GroupPlan plan = PlanGroups(
      absl::MakeConstSpan(first.groups())
          .subspan(static_cast<size_t>(columns.begin), static_cast<size_t>(columns.size())));
  QuantizedShape shape;
  shape.in_features = columns.size();
  shape.input_order = plan.input_order;
  const int64_t codes = rows * shape.packed_inputs();
  // A file's zero points take a byte; whether all are the middle is known when they are read.
  const int64_t per_group = sources.front().matrix != nullptr ? 3 : 2;
  return (first.format() == WeightFormat::kInt4 ? codes / 2 : codes) +
         rows * static_cast<int64_t>(plan.groups.size()) * per_group +
         static_cast<int64_t>(plan.input_order.size() * sizeof(int32_t));
}

}  // namespace qwenserve
