#ifndef QWENSERVE_ENGINE_SCHEDULE_BATCH_BUILDER_H_
#define QWENSERVE_ENGINE_SCHEDULE_BATCH_BUILDER_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/model/qwen.h"
#include "engine/model/rope.h"
#include "engine/schedule/step_plan.h"
#include "kernels/backend.h"

namespace qwenserve {

// The largest step that a rank is prepared for.
struct BatchLimits {
  int64_t max_rows = 0;
  int64_t max_sequences = 0;
  int64_t max_model_len = 0;
  int64_t num_blocks = 0;
};

// With room for the rows that steps are filled up with (Backend::PaddedRows).
BatchLimits WithFilling(BatchLimits limits, const Backend& backend);

// A plan spelled out row by row, in host memory. Layout as in AttentionBatch and ForwardBatch.
struct HostBatch {
  std::vector<int32_t> ids;  // < 0: drawn by the step before (Backend::TakeDrawn)
  std::vector<int32_t> positions;
  std::vector<int32_t> sequences;
  std::vector<int32_t> row_starts;
  std::vector<int32_t> block_tables;  // padded with 0 to max_blocks for each sequence
  int64_t max_blocks = 0;
  int64_t max_sequence_rows = 0;
  std::vector<int32_t> rope_tables;
  std::vector<float> query_scales;
  std::vector<int32_t> logit_rows;

  // Every sequence has one row and draws from it. Such a step's shape is (rows, max_blocks), and
  // max_blocks is a BlockBucket.
  bool one_draw_each = false;
};

// Powers of two and half as much again: few different widths of a block table, none of them more
// than half too wide.
int64_t BlockBucket(int64_t blocks, int64_t most);

// `previous_draws`: for each id that the step before drew, which of its logit rows it came from.
// INTERNAL, with the numbers, when the plan does not fit the limits: leader and follower disagree.
absl::Status BuildBatch(const StepPlan& plan, const ModelConfig& config, const BatchLimits& limits,
                        absl::Span<const int32_t> previous_draws, const RopeTables& rope,
                        HostBatch* batch);

// Appends sequences of one row at position -1, and its logits, until there are `rows` rows. For
// batches with one_draw_each.
void FillUp(int64_t rows, HostBatch* batch);

// The device arrays of one step: one piece of memory, allocated once for the largest step, with the
// arrays at the same addresses in every step (Backend::Replay). The host writes the same piece, and
// a step takes one copy, as far as it is used: the block tables, the largest part, come last.
class DeviceBatch {
 public:
  static absl::StatusOr<DeviceBatch> Create(const BatchLimits& limits, Backend& backend);

  // The result is valid until the next call.
  ForwardBatch Upload(const HostBatch& batch, Backend& backend);

  int32_t* ids() const { return Array(kIds); }

 private:
  enum Field {
    kIds,
    kPositions,
    kSequences,
    kRopeTables,
    kQueryScales,
    kLogitRows,
    kRowStarts,
    kBlockTables,
    kNumFields
  };
  int32_t* Array(Field field) const { return memory_.as<int32_t>() + offsets_[field]; }

  Buffer memory_;
  std::array<size_t, kNumFields + 1> offsets_ = {};  // in 4 bytes; the last one is the end
  std::vector<int32_t> staging_;                     // as memory_
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_BATCH_BUILDER_H_
