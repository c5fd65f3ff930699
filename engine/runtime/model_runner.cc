#include "engine/runtime/model_runner.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/loader/group_rounding.h"
#include "kernels/check.h"
#include "spdlog/spdlog.h"

namespace qwenserve {

ModelRunner::ModelRunner(const RankSettings& settings, const Checkpoint& checkpoint)
    : settings_(settings), checkpoint_(checkpoint) {}

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(const RankSettings& settings,
                                                                 const Checkpoint& checkpoint,
                                                                 const Meet& meet,
                                                                 const LoadProgress& progress) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner(settings, checkpoint));
  QS_RETURN_IF_ERROR(runner->TakeMemory(progress));
  QS_ASSIGN_OR_RETURN(runner->communicator_, meet(*runner->backend_));
  return runner;
}

absl::Status ModelRunner::TakeMemory(const LoadProgress& progress) {
  const ModelConfig& config = checkpoint_.config();
  const BatchLimits& limits = settings_.limits;
  QS_ASSIGN_OR_RETURN(backend_, MakeRankBackend(settings_));
  QS_ASSIGN_OR_RETURN(shard_, MakeShardPlan(config, settings_.tp, settings_.rank));
  QS_ASSIGN_OR_RETURN(weights_,
                      LoadWeights(checkpoint_, shard_, settings_.weights, *backend_, progress));
  for (const std::string& note : weights_.notes) spdlog::warn("{}", note);
  QS_ASSIGN_OR_RETURN(kv_, KvCache::Create(shard_.Heads(config), settings_.kv_format,
                                           config.num_layers, limits.num_blocks, *backend_));
  QS_ASSIGN_OR_RETURN(activations_, MakeActivations(config, shard_, limits.max_rows,
                                                    limits.max_sequences, *backend_));
  QS_ASSIGN_OR_RETURN(device_batch_, DeviceBatch::Create(limits, *backend_));
  QS_ASSIGN_OR_RETURN(rope_, RopeTables::Create(config, limits.max_model_len, *backend_));
  QS_ASSIGN_OR_RETURN(sampler_, RowSampler::Create(settings_.tp, limits.max_sequences,
                                                   settings_.sample_pairs, *backend_));
  const size_t ids_bytes = static_cast<size_t>(limits.max_sequences) * sizeof(int32_t);
  QS_ASSIGN_OR_RETURN(shared_ids_, backend_->Allocate(ids_bytes));
  QS_ASSIGN_OR_RETURN(gathered_ids_,
                      backend_->Allocate(ids_bytes * static_cast<size_t>(settings_.tp)));
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

absl::StatusOr<std::vector<int32_t>> ModelRunner::SharePreviousIds() {
  std::vector<int32_t> ids(previous_draws_.size());
  if (settings_.rank == 0) {
    QS_RETURN_IF_ERROR(backend_->Sync());
    const std::vector<SampledToken>& tokens =
        in_flight_.empty() ? previous_ : in_flight_.back().tokens;
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = tokens[previous_draws_[i]].id;
  }
  if (settings_.tp == 1) return ids;
  // A gather only moves bits, so ids can travel as floats.
  const size_t bytes = ids.size() * sizeof(int32_t);
  backend_->CopyToDevice(ids.data(), bytes, shared_ids_.data());
  QS_RETURN_IF_ERROR(communicator_->AllGather(
      shared_ids_.as<float>(), 1, static_cast<int64_t>(ids.size()), gathered_ids_.as<float>()));
  backend_->CopyToHost(gathered_ids_.data(), bytes, ids.data());
  return ids;
}

absl::StatusOr<uint64_t> ModelRunner::Launch(const StepPlan& plan) {
  QS_CHECK(in_flight_.size() < 2);
  std::vector<int32_t> previous;
  const bool needs_previous =
      std::any_of(plan.sequences.begin(), plan.sequences.end(),
                  [](const PlanSequence& part) { return part.sampled_by_row >= 0; });
  if (needs_previous) {
    QS_ASSIGN_OR_RETURN(previous, SharePreviousIds());
  }
  QS_RETURN_IF_ERROR(
      BuildBatch(plan, checkpoint_.config(), settings_.limits, previous, *rope_, &host_batch_));
  const ForwardBatch batch = device_batch_.Upload(host_batch_, *backend_);
  const ModelState state = State();
  QS_RETURN_IF_ERROR(Forward(state, batch));

  in_flight_.push_back({++last_ticket_, {}});
  std::vector<SampledToken>& tokens = in_flight_.back().tokens;
  const std::vector<LogitRow> rows = LogitRowsOf(plan);
  QS_CHECK(static_cast<int64_t>(rows.size()) == batch.num_logit_rows);
  tokens.resize(rows.size());
  previous_draws_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].drawn) previous_draws_.push_back(i);
  }
  // Scored prompts may have more rows than the buffers of the vocabulary.
  const size_t most = static_cast<size_t>(activations_.max_logit_rows);
  for (size_t begin = 0; begin < rows.size(); begin += most) {
    const auto part = absl::MakeConstSpan(rows).subspan(begin, most);
    ProjectLogits(state, batch.logit_rows + begin, static_cast<int64_t>(part.size()));
    QS_RETURN_IF_ERROR(sampler_.Sample(state, part, tokens.data() + begin));
  }
  // The others may not know all of them.
  if (settings_.rank != 0) tokens.clear();
  return last_ticket_;
}

absl::StatusOr<std::vector<SampledToken>> ModelRunner::Collect(uint64_t ticket) {
  QS_CHECK(!in_flight_.empty() && in_flight_.front().ticket == ticket);
  QS_RETURN_IF_ERROR(backend_->Sync());
  previous_ = std::move(in_flight_.front().tokens);
  in_flight_.pop_front();
  return previous_;
}

}  // namespace qwenserve
