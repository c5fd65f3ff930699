#ifndef QWENSERVE_ENGINE_LOADER_STACKED_ROWS_H_
#define QWENSERVE_ENGINE_LOADER_STACKED_ROWS_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "engine/loader/checkpoint_matrix.h"
#include "engine/loader/group_plan.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// Rows of a checkpoint's matrix that a rank takes.
struct MatrixPart {
  std::shared_ptr<const CheckpointMatrix> matrix;
  Range rows;
};

// One matrix of a rank: the rows of its parts below each other, of all the same columns. The parts'
// matrices have equal groups.
class StackedRows final : public QuantizedRowSource {
 public:
  // `out_features`: at least the parts' rows; those beyond them are zero. `on_rows` (may be null)
  // is called with the number of rows just read, from the threads that read them.
  StackedRows(std::vector<MatrixPart> parts, Range columns, WeightFormat format,
              int64_t out_features, std::function<void(int64_t)> on_rows);

  const QuantizedShape& shape() const { return shape_; }
  absl::Status ReadRows(int64_t begin, int64_t end, const QuantizedRows& rows) const override;

 private:
  // `rows` of one part to row `to` of the destination.
  absl::Status ReadPart(const MatrixPart& part, Range rows, int64_t to,
                        const QuantizedRows& out) const;

  const std::vector<MatrixPart> parts_;
  const Range columns_;
  const std::function<void(int64_t)> on_rows_;
  QuantizedShape shape_;
  std::vector<int32_t> packed_groups_;  // GroupPlan::groups
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_STACKED_ROWS_H_
