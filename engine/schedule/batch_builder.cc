#include "engine/schedule/batch_builder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

absl::Status CheckPart(const PlanSequence& part, const ModelConfig& config,
                       const BatchLimits& limits, absl::Span<const int32_t> previous_ids) {
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
  if (part.sampled_by_row >= static_cast<int64_t>(previous_ids.size())) {
    return absl::InternalError(absl::StrCat("plan: input from row ", part.sampled_by_row,
                                            " of a step that drew ", previous_ids.size()));
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

}  // namespace

absl::Status BuildBatch(const StepPlan& plan, const ModelConfig& config, const BatchLimits& limits,
                        absl::Span<const int32_t> previous_ids, const RopeTables& rope,
                        HostBatch* batch) {
  *batch = HostBatch();
  int64_t rows = 0;
  for (const PlanSequence& part : plan.sequences) {
    QS_RETURN_IF_ERROR(CheckPart(part, config, limits, previous_ids));
    rows += static_cast<int64_t>(part.ids.size());
    batch->max_blocks = std::max(batch->max_blocks, static_cast<int64_t>(part.blocks.size()));
  }
  const int64_t sequences = static_cast<int64_t>(plan.sequences.size());
  if (rows == 0 || rows > limits.max_rows || sequences > limits.max_sequences) {
    return absl::InternalError(absl::StrCat("plan: ", rows, " rows of ", sequences,
                                            " sequences, the limits are ", limits.max_rows, " and ",
                                            limits.max_sequences));
  }
  batch->block_tables.assign(sequences * batch->max_blocks, 0);
  batch->row_starts.push_back(0);
  for (int64_t s = 0; s < sequences; ++s) {
    const PlanSequence& part = plan.sequences[s];
    const int32_t table = rope.IndexFor(part.prompt_tokens);
    std::copy(part.blocks.begin(), part.blocks.end(),
              batch->block_tables.begin() + s * batch->max_blocks);
    for (size_t i = 0; i < part.ids.size(); ++i) {
      const int64_t position = part.first_position + static_cast<int64_t>(i);
      const int32_t id = part.sampled_by_row >= 0 ? previous_ids[part.sampled_by_row] : part.ids[i];
      // The step before drew nothing for a row whose logits are broken; any input will do, since
      // the sequence ends.
      batch->ids.push_back(std::max(id, 0));
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

absl::StatusOr<DeviceBatch> DeviceBatch::Create(const BatchLimits& limits, Backend& backend) {
  DeviceBatch batch;
  const size_t rows = static_cast<size_t>(limits.max_rows);
  const size_t sequences = static_cast<size_t>(limits.max_sequences);
  const size_t blocks = static_cast<size_t>(BlocksFor(limits.max_model_len));
  const std::pair<Buffer*, size_t> arrays[] = {
      {&batch.ids_, rows},
      {&batch.positions_, rows},
      {&batch.sequences_, rows},
      {&batch.row_starts_, sequences + 1},
      {&batch.block_tables_, sequences * blocks},
      {&batch.rope_tables_, rows},
      {&batch.query_scales_, rows},
      {&batch.logit_rows_, rows},
  };
  for (const auto& [buffer, count] : arrays) {
    QS_ASSIGN_OR_RETURN(*buffer, backend.Allocate(count * sizeof(int32_t)));
  }
  return batch;
}

ForwardBatch DeviceBatch::Upload(const HostBatch& batch, Backend& backend) {
  static_assert(sizeof(float) == sizeof(int32_t));
  const auto copy = [&backend](const auto& from, const Buffer& to) {
    const size_t bytes = from.size() * sizeof(from[0]);
    QS_CHECK(bytes <= to.bytes());
    backend.CopyToDevice(from.data(), bytes, to.data());
  };
  copy(batch.ids, ids_);
  copy(batch.positions, positions_);
  copy(batch.sequences, sequences_);
  copy(batch.row_starts, row_starts_);
  copy(batch.block_tables, block_tables_);
  copy(batch.rope_tables, rope_tables_);
  copy(batch.query_scales, query_scales_);
  copy(batch.logit_rows, logit_rows_);

  ForwardBatch forward;
  forward.attention.num_rows = static_cast<int64_t>(batch.ids.size());
  forward.attention.num_sequences = static_cast<int64_t>(batch.row_starts.size()) - 1;
  forward.attention.positions = positions_.as<int32_t>();
  forward.attention.sequences = sequences_.as<int32_t>();
  forward.attention.row_starts = row_starts_.as<int32_t>();
  forward.attention.block_tables = block_tables_.as<int32_t>();
  forward.attention.max_blocks = batch.max_blocks;
  forward.attention.rope_tables = rope_tables_.as<int32_t>();
  forward.attention.query_scales = query_scales_.as<float>();
  forward.ids = ids_.as<int32_t>();
  forward.logit_rows = logit_rows_.as<int32_t>();
  forward.num_logit_rows = static_cast<int64_t>(batch.logit_rows.size());
  return forward;
}

}  // namespace qwenserve
