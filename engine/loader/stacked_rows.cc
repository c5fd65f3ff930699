#include "engine/loader/stacked_rows.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace qwenserve {

StackedRows::StackedRows(std::vector<MatrixPart> parts, Range columns, WeightFormat format,
                         int64_t out_features, std::function<void(int64_t)> on_rows)
    : parts_(std::move(parts)), columns_(columns), on_rows_(std::move(on_rows)) {
  QS_CHECK(!parts_.empty() && columns.size() > 0);
  const std::vector<int32_t>& groups = parts_.front().matrix->groups();
  GroupPlan plan = PlanGroups(absl::MakeConstSpan(groups).subspan(
      static_cast<size_t>(columns.begin), static_cast<size_t>(columns.size())));
  shape_.format = format;
  shape_.out_features = out_features;
  shape_.in_features = columns.size();
  shape_.group_size = plan.group_size;
  shape_.input_order = std::move(plan.input_order);
  packed_groups_ = std::move(plan.groups);
  for (const MatrixPart& part : parts_) {
    QS_CHECK(part.matrix->groups() == groups);
    shape_.has_zeros = shape_.has_zeros || part.matrix->HasZeros(part.rows);
  }
}

absl::Status StackedRows::ReadRows(int64_t begin, int64_t end, const QuantizedRows& rows) const {
  int64_t start = 0;  // of the part, in rows of the stack
  for (const MatrixPart& part : parts_) {
    const int64_t from = std::max(begin, start);
    const int64_t to = std::min(end, start + part.rows.size());
    if (from < to) {
      const int64_t shift = part.rows.begin - start;
      QS_RETURN_IF_ERROR(ReadPart(part, {from + shift, to + shift}, from - begin, rows));
    }
    start += part.rows.size();
  }
  if (on_rows_) on_rows_(end - begin);
  return absl::OkStatus();
}

absl::Status StackedRows::ReadPart(const MatrixPart& part, Range rows, int64_t to,
                                   const QuantizedRows& out) const {
  const int64_t packed = shape_.packed_inputs(), packed_groups = shape_.groups();
  const int64_t groups = part.matrix->num_groups();
  const bool in_order = shape_.input_order.empty();
  std::vector<uint16_t> scales(static_cast<size_t>(rows.size() * groups));
  std::vector<uint8_t> zeros(scales.size());
  std::vector<uint8_t> codes(in_order ? 0 : static_cast<size_t>(rows.size() * columns_.size()));
  MatrixRows read = {out.codes + to * packed, packed, scales.data(), zeros.data()};
  if (!in_order) {
    read.codes = codes.data();
    read.stride = columns_.size();
  }
  QS_RETURN_IF_ERROR(part.matrix->ReadRows(rows, columns_, read));
  for (int64_t r = 0; r < rows.size(); ++r) {
    if (!in_order) {
      uint8_t* target = out.codes + (to + r) * packed;
      const uint8_t* source = codes.data() + r * columns_.size();
      for (int64_t i = 0; i < packed; ++i) {
        const int32_t input = shape_.input_order[i];
        if (input >= 0) target[i] = source[input];
      }
    }
    for (int64_t g = 0; g < packed_groups; ++g) {
      const int64_t slot = r * groups + packed_groups_[g];
      out.scales[(to + r) * packed_groups + g] = scales[slot];
      if (shape_.has_zeros) out.zeros[(to + r) * packed_groups + g] = zeros[slot];
    }
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
