#include "engine/schedule/batch_builder.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

absl::Status CheckPart(const PlanSequence& part, const ModelConfig& config,
                       const BatchLimits& limits, absl::Span<const int32_t> previous_draws) {
  const int64_t end = part.first_position + static_cast<int64_t>(part.ids.size());
  if (part.ids.empty() || part.first_position < 0 || end > limits.max_model_len) {
    return absl::InternalError(absl::StrCat("plan: positions ", part.first_position, " to ", end,
                                            ", the limit is ", limits.max_model_len));
  }
  if (part.prompt_tokens < 1 || part.prompt_tokens > limits.max_model_len) {
    return absl::InternalError(absl::StrCat("plan: a prompt of ", part.prompt_tokens,
                                            " tokens, the limit is ", limits.max_model_len));
  }
  if (static_cast<int64_t>(part.blocks.size()) != BlocksFor(end)) {
    return absl::InternalError(
        absl::StrCat("plan: ", part.blocks.size(), " blocks for ", end, " positions"));
  }
  for (int32_t block : part.blocks) {
    if (block < 0 || block >= limits.num_blocks) {
      return absl::InternalError(absl::StrCat("plan: block ", block, " of ", limits.num_blocks));
    }
  }
  if (part.sampled_by_row >= static_cast<int64_t>(previous_draws.size())) {
    return absl::InternalError(absl::StrCat("plan: input from row ", part.sampled_by_row,
                                            " of a step that drew ", previous_draws.size()));
  }
  const int64_t last_scored = int64_t{part.first_scored} + part.num_scored;
  if (part.num_scored > 0 &&
      (last_scored > static_cast<int64_t>(part.ids.size()) - (part.wants_logits ? 1 : 0) ||
       (last_scored == static_cast<int64_t>(part.ids.size()) &&
        (part.next_id < 0 || part.next_id >= config.vocab_size)))) {
    return absl::InternalError(absl::StrCat("plan: ", part.num_scored, " rows of ", part.ids.size(),
                                            " to score from row ", part.first_scored, ", next id ",
                                            part.next_id));
  }
  for (int32_t id : part.ids) {
    if (part.sampled_by_row < 0 && (id < 0 || id >= config.vocab_size)) {
      return absl::InternalError(
          absl::StrCat("plan: id ", id, " of a vocabulary of ", config.vocab_size));
    }
  }
  return absl::OkStatus();
}

// Keeps the memory.
void Clear(HostBatch* batch) {
  for (std::vector<int32_t>* array :
       {&batch->ids, &batch->positions, &batch->sequences, &batch->row_starts, &batch->block_tables,
        &batch->rope_tables, &batch->logit_rows}) {
    array->clear();
  }
  batch->query_scales.clear();
  batch->max_blocks = batch->max_sequence_rows = 0;
  batch->one_draw_each = true;
}

}  // namespace

int64_t BlockBucket(int64_t blocks, int64_t most) {
  const auto power = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(blocks)));
  const int64_t between = power / 4 * 3;
  return std::min(most, between >= blocks ? between : power);
}

absl::Status BuildBatch(const StepPlan& plan, const ModelConfig& config, const BatchLimits& limits,
                        absl::Span<const int32_t> previous_draws, const RopeTables& rope,
                        HostBatch* batch) {
  Clear(batch);
  int64_t rows = 0;
  for (const PlanSequence& part : plan.sequences) {
    QS_RETURN_IF_ERROR(CheckPart(part, config, limits, previous_draws));
    const int64_t part_rows = static_cast<int64_t>(part.ids.size());
    rows += part_rows;
    batch->max_sequence_rows = std::max(batch->max_sequence_rows, part_rows);
    batch->max_blocks = std::max(batch->max_blocks, static_cast<int64_t>(part.blocks.size()));
    batch->one_draw_each &= part_rows == 1 && part.wants_logits;
  }
  const int64_t sequences = static_cast<int64_t>(plan.sequences.size());
  if (rows == 0 || rows > limits.max_rows || sequences > limits.max_sequences) {
    return absl::InternalError(absl::StrCat("plan: ", rows, " rows of ", sequences,
                                            " sequences, the limits are ", limits.max_rows, " and ",
                                            limits.max_sequences));
  }
  if (batch->one_draw_each) {
    batch->max_blocks = BlockBucket(batch->max_blocks, BlocksFor(limits.max_model_len));
  }
  batch->block_tables.resize(sequences * batch->max_blocks, 0);
  batch->row_starts.push_back(0);
  for (int64_t s = 0; s < sequences; ++s) {
    const PlanSequence& part = plan.sequences[s];
    const int32_t table = rope.IndexFor(part.prompt_tokens);
    std::copy(part.blocks.begin(), part.blocks.end(),
              batch->block_tables.begin() + s * batch->max_blocks);
    for (size_t i = 0; i < part.ids.size(); ++i) {
      const int64_t position = part.first_position + static_cast<int64_t>(i);
      batch->ids.push_back(part.sampled_by_row >= 0 ? -1 - previous_draws[part.sampled_by_row]
                                                    : part.ids[i]);
      batch->positions.push_back(static_cast<int32_t>(position));
      batch->sequences.push_back(static_cast<int32_t>(s));
      batch->rope_tables.push_back(table);
      batch->query_scales.push_back(LognScale(config, position));
    }
    batch->row_starts.push_back(static_cast<int32_t>(batch->ids.size()));
    const int32_t first_row = batch->row_starts[s];
    for (int32_t i = 0; i < part.num_scored; ++i) {
      batch->logit_rows.push_back(first_row + part.first_scored + i);
    }
    if (part.wants_logits) {
      batch->logit_rows.push_back(static_cast<int32_t>(batch->ids.size()) - 1);
    }
  }
  return absl::OkStatus();
}

void FillUp(int64_t rows, HostBatch* batch) {
  QS_CHECK(batch->one_draw_each);
  for (int32_t row = static_cast<int32_t>(batch->ids.size()); row < rows; ++row) {
    batch->ids.push_back(0);
    batch->positions.push_back(-1);
    batch->sequences.push_back(row);
    batch->rope_tables.push_back(0);
    batch->query_scales.push_back(1.0f);
    batch->logit_rows.push_back(row);
    batch->row_starts.push_back(row + 1);
  }
  batch->block_tables.resize(batch->ids.size() * batch->max_blocks, 0);
}

BatchLimits WithFilling(BatchLimits limits, const Backend& backend) {
  int64_t most = limits.max_sequences;
  for (int64_t rows = 1; rows <= limits.max_sequences; ++rows) {
    most = std::max(most, backend.PaddedRows(rows));
  }
  limits.max_sequences = std::min(most, limits.max_rows);
  return limits;
}

absl::StatusOr<DeviceBatch> DeviceBatch::Create(const BatchLimits& limits, Backend& backend) {
  constexpr size_t kLine = 16;  // arrays begin at multiples of 64 bytes
  const size_t rows = static_cast<size_t>(limits.max_rows);
  const size_t sequences = static_cast<size_t>(limits.max_sequences);
  const size_t blocks = static_cast<size_t>(BlocksFor(limits.max_model_len));
  DeviceBatch batch;
  const size_t counts[kNumFields] = {rows, rows, rows,          rows,
                                     rows, rows, sequences + 1, sequences * blocks};
  for (int field = 0; field < kNumFields; ++field) {
    const size_t end = batch.offsets_[field] + counts[field];
    batch.offsets_[field + 1] = (end + kLine - 1) / kLine * kLine;
  }
  batch.staging_.resize(batch.offsets_[kNumFields]);
  QS_ASSIGN_OR_RETURN(batch.memory_, backend.Allocate(batch.staging_.size() * sizeof(int32_t)));
  return batch;
}

ForwardBatch DeviceBatch::Upload(const HostBatch& batch, Backend& backend) {
  static_assert(sizeof(float) == sizeof(int32_t));
  const auto stage = [this](const auto& from, Field field) {
    QS_CHECK(from.size() <= offsets_[field + 1] - offsets_[field]);
    if (!from.empty()) {
      std::memcpy(staging_.data() + offsets_[field], from.data(), from.size() * sizeof(from[0]));
    }
  };
  stage(batch.ids, kIds);
  stage(batch.positions, kPositions);
  stage(batch.sequences, kSequences);
  stage(batch.rope_tables, kRopeTables);
  stage(batch.query_scales, kQueryScales);
  stage(batch.logit_rows, kLogitRows);
  stage(batch.row_starts, kRowStarts);
  stage(batch.block_tables, kBlockTables);
  const size_t used = offsets_[kBlockTables] + batch.block_tables.size();
  backend.CopyToDevice(staging_.data(), used * sizeof(int32_t), memory_.data());

  ForwardBatch forward;
  forward.attention.num_rows = static_cast<int64_t>(batch.ids.size());
  forward.attention.num_sequences = static_cast<int64_t>(batch.row_starts.size()) - 1;
  forward.attention.max_sequence_rows = batch.max_sequence_rows;
  forward.attention.positions = Array(kPositions);
  forward.attention.sequences = Array(kSequences);
  forward.attention.row_starts = Array(kRowStarts);
  forward.attention.block_tables = Array(kBlockTables);
  forward.attention.max_blocks = batch.max_blocks;
  forward.attention.rope_tables = Array(kRopeTables);
  forward.attention.query_scales = reinterpret_cast<const float*>(Array(kQueryScales));
  forward.ids = Array(kIds);
  forward.logit_rows = Array(kLogitRows);
  forward.num_logit_rows = static_cast<int64_t>(batch.logit_rows.size());
  return forward;
}

}  // namespace qwenserve
