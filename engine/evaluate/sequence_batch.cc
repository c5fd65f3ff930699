#include "engine/evaluate/sequence_batch.h"

#include <numeric>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

template <typename T>
absl::StatusOr<Buffer> ToDevice(const std::vector<T>& values, Backend& backend) {
  const size_t bytes = values.size() * sizeof(T);
  QS_ASSIGN_OR_RETURN(Buffer buffer, backend.Allocate(bytes));
  backend.CopyToDevice(values.data(), bytes, buffer.data());
  return buffer;
}

}  // namespace

absl::StatusOr<SequenceBatch> SequenceBatch::Create(const ModelConfig& config, int64_t max_length,
                                                    Backend& backend) {
  SequenceBatch batch;
  batch.max_length_ = max_length;
  QS_ASSIGN_OR_RETURN(batch.rope_, RopeTables::Create(config, max_length, backend));
  std::vector<int32_t> ascending(static_cast<size_t>(max_length));
  std::iota(ascending.begin(), ascending.end(), 0);
  QS_ASSIGN_OR_RETURN(batch.positions_, ToDevice(ascending, backend));
  ascending.resize(static_cast<size_t>(BlocksFor(max_length)));
  QS_ASSIGN_OR_RETURN(batch.block_table_, ToDevice(ascending, backend));
  const std::vector<int32_t> zeros(static_cast<size_t>(max_length));
  QS_ASSIGN_OR_RETURN(batch.sequences_, ToDevice(zeros, backend));
  QS_ASSIGN_OR_RETURN(batch.rope_tables_, ToDevice(zeros, backend));
  QS_ASSIGN_OR_RETURN(batch.row_starts_, ToDevice(std::vector<int32_t>(2), backend));
  std::vector<float> scales;
  for (int64_t i = 0; i < max_length; ++i) scales.push_back(LognScale(config, i));
  QS_ASSIGN_OR_RETURN(batch.query_scales_, ToDevice(scales, backend));
  return batch;
}

AttentionBatch SequenceBatch::Rows(int64_t length, int64_t first, int64_t rows, Backend& backend) {
  QS_CHECK(rows > 0 && first >= 0 && first + rows <= length && length <= max_length_);
  const int32_t row_starts[] = {0, static_cast<int32_t>(rows)};
  backend.CopyToDevice(row_starts, sizeof(row_starts), row_starts_.data());
  const std::vector<int32_t> tables(static_cast<size_t>(rows), rope_->IndexFor(length));
  backend.CopyToDevice(tables.data(), tables.size() * sizeof(int32_t), rope_tables_.data());
  AttentionBatch batch;
  batch.num_rows = rows;
  batch.num_sequences = 1;
  batch.positions = positions_.as<int32_t>() + first;
  batch.sequences = sequences_.as<int32_t>();
  batch.row_starts = row_starts_.as<int32_t>();
  batch.block_tables = block_table_.as<int32_t>();
  batch.max_blocks = BlocksFor(max_length_);
  batch.rope_tables = rope_tables_.as<int32_t>();
  batch.query_scales = query_scales_.as<float>() + first;
  return batch;
}

}  // namespace qwenserve
