#ifndef QWENSERVE_ENGINE_EVALUATE_SEQUENCE_BATCH_H_
#define QWENSERVE_ENGINE_EVALUATE_SEQUENCE_BATCH_H_

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/model/rope.h"
#include "kernels/attention_batch.h"
#include "kernels/backend.h"

namespace qwenserve {

// The arrays that describe the rows of one sequence which has the KV cache to itself: position p is
// in block p / kKvBlockSize. For work that runs whole texts through the model and schedules
// nothing. Must not outlive the backend.
class SequenceBatch {
 public:
  // For sequences of up to `max_length` tokens.
  static absl::StatusOr<SequenceBatch> Create(const ModelConfig& config, int64_t max_length,
                                              Backend& backend);

  // Positions first .. first + rows - 1 of a sequence of `length` tokens, which decides NTK's
  // alpha. Valid until the next call.
  AttentionBatch Rows(int64_t length, int64_t first, int64_t rows, Backend& backend);

  absl::Span<const RopeTable> rope() const { return rope_->tables(); }

 private:
  int64_t max_length_ = 0;
  std::optional<RopeTables> rope_;
  Buffer positions_, sequences_, row_starts_, block_table_, rope_tables_, query_scales_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_EVALUATE_SEQUENCE_BATCH_H_
