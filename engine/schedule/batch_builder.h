#ifndef QWENSERVE_ENGINE_SCHEDULE_BATCH_BUILDER_H_
#define QWENSERVE_ENGINE_SCHEDULE_BATCH_BUILDER_H_

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

// A plan spelled out row by row, in host memory. Layout as in AttentionBatch and ForwardBatch.
struct HostBatch {
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;
  std::vector<int32_t> sequences;
  std::vector<int32_t> row_starts;
  std::vector<int32_t> block_tables;  // padded with 0 to max_blocks for each sequence
  int64_t max_blocks = 0;
  std::vector<int32_t> rope_tables;
  std::vector<float> query_scales;
  std::vector<int32_t> logit_rows;
};

// `previous_ids`: what the step before drew, for inputs that are "sampled by row r". INTERNAL, with
// the numbers, when the plan does not fit the limits: leader and follower disagree.
absl::Status BuildBatch(const StepPlan& plan, const ModelConfig& config, const BatchLimits& limits,
                        absl::Span<const int32_t> previous_ids, const RopeTables& rope,
                        HostBatch* batch);

// The device arrays of one step, allocated once for the largest one.
class DeviceBatch {
 public:
  static absl::StatusOr<DeviceBatch> Create(const BatchLimits& limits, Backend& backend);

  // Copies the arrays to the device. The result points to them, and is valid until the next call.
  ForwardBatch Upload(const HostBatch& batch, Backend& backend);

 private:
  Buffer ids_;
  Buffer positions_;
  Buffer sequences_;
  Buffer row_starts_;
  Buffer block_tables_;
  Buffer rope_tables_;
  Buffer query_scales_;
  Buffer logit_rows_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_SCHEDULE_BATCH_BUILDER_H_
