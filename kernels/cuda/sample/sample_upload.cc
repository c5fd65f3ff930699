#include "kernels/cuda/sample/sample_upload.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/sample/sample_noise.h"

namespace qwenserve {

SampleUpload::SampleUpload(absl::Span<const SampleRow> rows, int64_t vocab_size,
                           ContextCounts* counts) {
  rows_.resize(rows.size());
  // Rows whose logits change are scored first.
  for (const bool early : {true, false}) {
    for (size_t i = 0; i < rows.size(); ++i) {
      const SampleRow& row = rows[i];
      if (row.num_logprobs < 0 || EditsLogits(row) != early) continue;
      rows_[i].logprobs_job = static_cast<int32_t>(jobs_.size());
      jobs_.push_back(LogprobsJob(row, static_cast<int>(i)));
    }
    if (early) num_early_ = static_cast<int>(jobs_.size());
  }
  num_scored_ = static_cast<int>(jobs_.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleRow& row = rows[i];
    QS_CHECK(row.given_id < vocab_size && (row.given_id < 0 || row.num_logprobs >= 0));
    rows_[i].given_id = row.given_id;
    if (row.given_id >= 0) continue;
    rows_[i].draw_job = static_cast<int32_t>(jobs_.size());
    jobs_.push_back(DrawJob(row, vocab_size, static_cast<int>(i)));
    if (!EditsLogits(row)) continue;
    jobs_.back().edits = rows_[i].edits = static_cast<int32_t>(edits_.size());
    AddEdits(row, vocab_size, counts);
  }
  counts->EndStep();
  jobs_offset_ = Append<SampleJob>(jobs_) * sizeof(uint32_t);
  rows_offset_ = Append<SampleRowPlan>(rows_) * sizeof(uint32_t);
  edits_offset_ = Append<SampleEdits>(edits_) * sizeof(uint32_t);
}

SampleJob SampleUpload::LogprobsJob(const SampleRow& row, int index) {
  QS_CHECK(row.num_logprobs <= kMaxTopLogprobs);
  SampleJob job = {.row = index, .kind = SampleKind::kLogprobs, .count = row.num_logprobs};
  if (job.count > 0) job.select = num_selects_++;
  return job;
}

SampleJob SampleUpload::DrawJob(const SampleRow& row, int64_t vocab_size, int index) {
  SampleJob job = {.noise_key = NoiseKey(row), .row = index};
  if (row.temperature < kGreedyBelow) return job;
  job.inverse_temperature = 1.0f / row.temperature;
  job.top_p = row.top_p;
  job.min_p = row.min_p;
  if (row.top_k > 0 && row.top_k < vocab_size) job.count = row.top_k;
  const bool nucleus = row.top_p < 1.0f;
  if (job.count > kMaxListedTopK && nucleus) {
    job.kind = SampleKind::kBits;
  } else if (job.count > kMaxListedTopK) {
    job.kind = SampleKind::kWideTop;
  } else if (job.count > 0) {
    job.kind = SampleKind::kTop;
  } else {
    job.kind = nucleus ? SampleKind::kNucleus : SampleKind::kRace;
  }
  if (job.kind != SampleKind::kBits && job.kind != SampleKind::kRace) job.select = num_selects_++;
  return job;
}

void SampleUpload::AddEdits(const SampleRow& row, int64_t vocab_size, ContextCounts* counts) {
  SampleEdits edits;
  edits.repetition_penalty = row.repetition_penalty;
  edits.presence_penalty = row.presence_penalty;
  edits.frequency_penalty = row.frequency_penalty;
  edits.biases = Append(row.logit_bias);
  edits.num_biases = static_cast<uint32_t>(row.logit_bias.size());
  if (ReadsContext(row)) {
    edits.last_id = row.last_id;
    const absl::Span<const ContextId> context = counts->Of(row.context_ids, row.num_prompt_ids);
    edits.context = Append(context);
    edits.num_context = static_cast<uint32_t>(context.size());
  }
  edits.banned = Append(row.banned_ids);
  edits.num_banned = static_cast<uint32_t>(row.banned_ids.size());
  if (row.allowed_ids != nullptr) {
    edits.allowed = Append(absl::MakeConstSpan(row.allowed_ids, (vocab_size + 31) / 32));
    edits.has_allowed = 1;
  }
  if (row.num_logprobs >= 0) {
    edits.originals = static_cast<int32_t>(num_originals_);
    num_originals_ += edits.num_biases + edits.num_context + 2;
  }
  edits_.push_back(edits);
}

}  // namespace qwenserve
