#include "engine/runtime/model_runner.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/loader/group_rounding.h"
#include "engine/runtime/kv_sizing.h"
#include "kernels/check.h"
#include "spdlog/spdlog.h"

namespace qwenserve {

ModelRunner::ModelRunner(const RankSettings& settings, const Checkpoint& checkpoint)
    : settings_(settings), checkpoint_(checkpoint), limits_(settings.limits) {}

ModelRunner::~ModelRunner() {
  if (backend_ != nullptr) backend_->ForgetReplays();
}

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(const RankSettings& settings,
                                                                 const Checkpoint& checkpoint,
                                                                 const Meet& meet,
                                                                 const LoadProgress& progress) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner(settings, checkpoint));
  QS_RETURN_IF_ERROR(runner->TakeMemory(progress));
  QS_ASSIGN_OR_RETURN(runner->communicator_, meet(*runner->backend_));
  QS_RETURN_IF_ERROR(runner->TakeKvCache());
  return runner;
}

absl::Status ModelRunner::TakeMemory(const LoadProgress& progress) {
  const ModelConfig& config = checkpoint_.config();
  QS_ASSIGN_OR_RETURN(backend_, MakeRankBackend(settings_));
  QS_ASSIGN_OR_RETURN(shard_, MakeShardPlan(config, settings_.tp, settings_.rank));
  QS_RETURN_IF_ERROR(backend_->SupportsKv(settings_.kv_format, shard_.Heads(config)));
  QS_RETURN_IF_ERROR(CheckRoom(settings_, config, *backend_));
  const BatchLimits limits = WithFilling(limits_, *backend_);
  QS_ASSIGN_OR_RETURN(weights_,
                      LoadWeights(checkpoint_, shard_, settings_.weights, *backend_, progress));
  for (const std::string& note : weights_.notes) spdlog::warn("{}", note);
  QS_ASSIGN_OR_RETURN(activations_, MakeActivations(config, shard_, limits.max_rows,
                                                    limits.max_sequences, *backend_));
  QS_ASSIGN_OR_RETURN(device_batch_, DeviceBatch::Create(limits, *backend_));
  QS_ASSIGN_OR_RETURN(rope_, RopeTables::Create(config, limits.max_model_len, *backend_));
  QS_ASSIGN_OR_RETURN(sampler_, RowSampler::Create(settings_.tp, limits.max_sequences,
                                                   settings_.sample_pairs, *backend_));
  const size_t ids_bytes = static_cast<size_t>(limits.max_rows) * sizeof(int32_t);
  for (Buffer& drawn : drawn_) {
    QS_ASSIGN_OR_RETURN(drawn, backend_->Allocate(ids_bytes));
  }
  if (settings_.tp > 1) {
    QS_ASSIGN_OR_RETURN(gathered_ids_,
                        backend_->Allocate(ids_bytes * static_cast<size_t>(settings_.tp)));
  }
  return backend_->Sync();
}

absl::Status ModelRunner::TakeKvCache() {
  const ModelConfig& config = checkpoint_.config();
  const HeadLayout heads = shard_.Heads(config);
  QS_RETURN_IF_ERROR(SizeKvCache(
      settings_, config, KvBlockBytes(heads, settings_.kv_format, config.num_layers, *backend_),
      *backend_, *communicator_, drawn_[0], gathered_ids_, &limits_));
  QS_ASSIGN_OR_RETURN(kv_, KvCache::Create(heads, settings_.kv_format, config.num_layers,
                                           limits_.num_blocks, *backend_));
  return backend_->Sync();
}

std::string ModelRunner::weight_numerics() const {
  const auto describe = [this](absl::string_view name, const LinearWeight& weight) {
    const std::string groups =
        weight.group_size == 0 ? "" : absl::StrCat(" in groups of ", weight.group_size);
    return absl::StrCat(name, " ", WeightFormatName(weight.format), groups, " (",
                        backend_->kernel_table(weight.format), ")");
  };
  std::set<std::string> parts = {describe("embedding", weights_.embedding),
                                 describe("head", weights_.Head())};
  for (const LayerWeights& layer : weights_.layers) {
    for (const LinearWeight* weight : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down}) {
      parts.insert(describe("layers", *weight));
    }
  }
  if (settings_.weights == WeightChoice::kInt8 || settings_.weights == WeightChoice::kInt4) {
    parts.insert(
        absl::StrCat("rounded ", WeightChoiceName(settings_.weights), " ", kGroupRoundingVersion));
  }
  return absl::StrJoin(parts, ", ");
}

ModelState ModelRunner::State() {
  ModelState state;
  state.config = &checkpoint_.config();
  state.shard = &shard_;
  state.weights = &weights_;
  state.activations = &activations_;
  state.kv = kv_.layers();
  state.rope = rope_->tables();
  state.backend = backend_.get();
  state.communicator = communicator_.get();
  return state;
}

absl::StatusOr<const int32_t*> ModelRunner::SharePreviousDraws() {
  const int32_t* mine = drawn(last_ticket_);
  if (settings_.tp == 1) return mine;
  // A gather only moves bits, so ids can travel as floats. Rank 0's come first.
  QS_RETURN_IF_ERROR(communicator_->AllGather(reinterpret_cast<const float*>(mine), 1,
                                              previous_rows_, gathered_ids_.as<float>()));
  return gathered_ids_.as<int32_t>();
}

std::vector<LogitRow> ModelRunner::RowsOf(const StepPlan& plan) const {
  std::vector<LogitRow> rows = LogitRowsOf(plan);
  for (LogitRow& row : rows) {
    if (row.sampled_by_row < 0 || !ReadsContext(row.row)) continue;
    row.row.last_id = drawn(last_ticket_) + previous_draws_[row.sampled_by_row];
  }
  return rows;
}

absl::StatusOr<uint64_t> ModelRunner::Launch(const StepPlan& plan) {
  QS_CHECK(in_flight_.size() < 2);
  QS_RETURN_IF_ERROR(
      BuildBatch(plan, checkpoint_.config(), limits_, previous_draws_, *rope_, &host_batch_));
  if (host_batch_.one_draw_each) {
    const int64_t padded = backend_->PaddedRows(static_cast<int64_t>(host_batch_.ids.size()));
    FillUp(std::min(padded, settings_.limits.max_rows), &host_batch_);
  }
  const ForwardBatch batch = device_batch_.Upload(host_batch_, *backend_);
  if (std::any_of(plan.sequences.begin(), plan.sequences.end(),
                  [](const PlanSequence& part) { return part.sampled_by_row >= 0; })) {
    QS_ASSIGN_OR_RETURN(const int32_t* previous, SharePreviousDraws());
    backend_->TakeDrawn(previous, batch.attention.num_rows, device_batch_.ids());
  }
  const std::vector<LogitRow> rows = RowsOf(plan);
  in_flight_.push_back({++last_ticket_, 0, std::vector<SampledToken>(rows.size())});
  InFlight& step = in_flight_.back();
  QS_RETURN_IF_ERROR(Compute(batch, rows, step.tokens.data()));
  step.mark = backend_->Mark();

  previous_draws_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].drawn) previous_draws_.push_back(static_cast<int32_t>(i));
  }
  previous_rows_ = static_cast<int64_t>(rows.size());
  // The others may not know all of them.
  if (settings_.rank != 0) step.tokens.clear();
  return last_ticket_;
}

absl::Status ModelRunner::Compute(const ForwardBatch& batch, absl::Span<const LogitRow> rows,
                                  SampledToken* tokens) {
  const ModelState state = State();
  int32_t* drawn_now = drawn(last_ticket_);
  if (host_batch_.one_draw_each) {
    const auto issue = [&]() -> absl::Status {
      QS_RETURN_IF_ERROR(Forward(state, batch));
      ProjectLogits(state, batch.logit_rows, batch.num_logit_rows);
      return absl::OkStatus();
    };
    const uint64_t shape = static_cast<uint64_t>(batch.attention.max_blocks) << 32 |
                           static_cast<uint64_t>(batch.attention.num_rows);
    QS_RETURN_IF_ERROR(communicator_->replayable() ? backend_->Replay(shape, issue) : issue());
    return sampler_.Sample(state, rows, drawn_now, tokens);
  }
  QS_RETURN_IF_ERROR(Forward(state, batch));
  QS_CHECK(static_cast<int64_t>(rows.size()) == batch.num_logit_rows);
  // Scored prompts may have more rows than the buffers of the vocabulary.
  const size_t most = static_cast<size_t>(activations_.max_logit_rows);
  for (size_t begin = 0; begin < rows.size(); begin += most) {
    const auto part = rows.subspan(begin, most);
    ProjectLogits(state, batch.logit_rows + begin, static_cast<int64_t>(part.size()));
    QS_RETURN_IF_ERROR(sampler_.Sample(state, part, drawn_now + begin, tokens + begin));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SampledToken>> ModelRunner::Collect(uint64_t ticket) {
  QS_CHECK(!in_flight_.empty() && in_flight_.front().ticket == ticket);
  QS_RETURN_IF_ERROR(backend_->Wait(in_flight_.front().mark));
  std::vector<SampledToken> tokens = std::move(in_flight_.front().tokens);
  in_flight_.pop_front();
  return tokens;
}

}  // namespace qwenserve
