#include "engine/loader/matrix_loader.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/loader/group_rounding.h"
#include "engine/loader/rounded_matrix.h"
#include "engine/loader/stacked_rows.h"

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
      return absl::InvalidArgumentError(absl::StrCat(
          TensorPlace(*source.tensor), " and \"", ShownText(first.name),
          "\" have different dtypes, but are one matrix of the model; save both in one dtype"));
    }
    if (choice == WeightChoice::kBf16 && source.tensor->dtype != DType::kBf16) {
      return absl::InvalidArgumentError(
          absl::StrCat(TensorPlace(*source.tensor), " is ", DTypeName(source.tensor->dtype),
                       ", but bf16 weights were asked for; use auto to take weights as they are"));
    }
    const int64_t stride = source.part.shape[1];
    const int64_t begin = source.part.rows.begin * stride + source.part.columns.begin;
    blocks.push_back(
        {static_cast<const uint8_t*>(source.tensor->data) + static_cast<size_t>(begin) * element,
         first.dtype, source.part.rows.size(), stride});
  }
  const int64_t missing = std::max<int64_t>(padded_rows - CountRows(sources), 0);
  const std::vector<uint8_t> zeros(static_cast<size_t>(missing * in_features) * element);
  if (missing > 0) blocks.push_back({zeros.data(), first.dtype, missing, in_features});
  return backend.PackLinear(blocks, in_features);
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
  const std::optional<Rounding> rounding = RoundingFor(choice, sources.front().part.field);
  if (!rounding.has_value()) return LoadFloats(sources, choice, padded_rows, backend);
  std::vector<MatrixPart> parts;
  for (const WeightSource& source : sources) {
    parts.push_back({MakeRoundedMatrix(*source.tensor, rounding->format, rounding->group_size),
                     source.part.rows});
  }
  const int64_t rows = std::max(padded_rows, CountRows(sources));
  const StackedRows stacked(std::move(parts), sources.front().part.columns, rounding->format, rows,
                            on_rows);
  return backend.PackQuantized(stacked.shape(), stacked);
}

}  // namespace qwenserve
