#include "engine/evaluate/logit_runner.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/loader/weight_loader.h"
#include "engine/parallel/group_communicator.h"
#include "kernels/check.h"

namespace qwenserve {

absl::StatusOr<std::unique_ptr<LogitRunner>> LogitRunner::Create(
    const Checkpoint& checkpoint, const LogitRunnerOptions& options) {
  const ModelConfig& config = checkpoint.config();
  std::unique_ptr<LogitRunner> runner(new LogitRunner(checkpoint));
  CpuBackendOptions cpu;
  cpu.num_threads = options.num_threads;
  cpu.isa = options.isa;
  QS_ASSIGN_OR_RETURN(runner->backend_, MakeCpuBackend(cpu));
  Backend& backend = *runner->backend_;
  QS_ASSIGN_OR_RETURN(std::shared_ptr<RankGroup> alone, RankGroup::Create(1));
  runner->communicator_ = MakeGroupCommunicator(std::move(alone), 0, absl::Seconds(60));
  QS_ASSIGN_OR_RETURN(runner->shard_, MakeShardPlan(config, 1, 0));
  QS_ASSIGN_OR_RETURN(runner->weights_,
                      LoadWeights(checkpoint, runner->shard_, options.weights, backend, nullptr));
  QS_ASSIGN_OR_RETURN(runner->kv_,
                      KvCache::Create(runner->shard_.Heads(config), options.kv_format,
                                      config.num_layers, BlocksFor(options.max_length), backend));
  const int64_t rows = IsInvariant(options.kv_format)
                           ? std::min(options.max_rows, options.max_length)
                           : options.max_length;
  QS_ASSIGN_OR_RETURN(runner->activations_,
                      MakeActivations(config, runner->shard_, rows, rows, backend));
  QS_ASSIGN_OR_RETURN(runner->batch_, SequenceBatch::Create(config, options.max_length, backend));
  std::vector<int32_t> ascending(static_cast<size_t>(rows));
  std::iota(ascending.begin(), ascending.end(), 0);
  const size_t bytes = ascending.size() * sizeof(int32_t);
  QS_ASSIGN_OR_RETURN(runner->ids_, backend.Allocate(bytes));
  QS_ASSIGN_OR_RETURN(runner->logit_rows_, backend.Allocate(bytes));
  backend.CopyToDevice(ascending.data(), bytes, runner->logit_rows_.data());
  QS_RETURN_IF_ERROR(backend.Sync());
  return runner;
}

absl::StatusOr<absl::Span<const float>> LogitRunner::Run(absl::Span<const int32_t> ids,
                                                         int64_t first, int64_t count) {
  QS_CHECK(count > 0 && count <= max_rows());
  const auto part = ids.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  for (int32_t id : part) {
    if (id < 0 || id >= vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("id ", id, " of a vocabulary of ", vocab_size()));
    }
  }
  backend_->CopyToDevice(part.data(), part.size() * sizeof(int32_t), ids_.data());
  ModelState state;
  state.config = &checkpoint_.config();
  state.shard = &shard_;
  state.weights = &weights_;
  state.activations = &activations_;
  state.kv = kv_.layers();
  state.rope = batch_.rope();
  state.backend = backend_.get();
  state.communicator = communicator_.get();
  ForwardBatch batch;
  batch.attention = batch_.Rows(static_cast<int64_t>(ids.size()), first, count, *backend_);
  batch.ids = ids_.as<int32_t>();
  QS_RETURN_IF_ERROR(Forward(state, batch));
  ProjectLogits(state, logit_rows_.as<int32_t>(), count);
  QS_RETURN_IF_ERROR(backend_->Sync());
  const LogitsView view = LogitsOf(state);
  QS_CHECK(view.stride == vocab_size());  // one rank: nothing is padded
  logits_.resize(static_cast<size_t>(count * view.stride));
  backend_->CopyToHost(view.data, logits_.size() * sizeof(float), logits_.data());
  return absl::MakeConstSpan(logits_);
}

std::string LogitRunner::WeightFormats() const {
  std::set<std::string> names;
  for (const LayerWeights& layer : weights_.layers) {
    for (const LinearWeight* weight : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down}) {
      names.insert(WeightFormatName(weight->format));
    }
  }
  return absl::StrJoin(names, ", ");
}

int64_t LogitRunner::weight_bytes() const {
  size_t bytes = weights_.embedding.bytes() + weights_.head.bytes() + weights_.final_norm.bytes();
  for (const LayerWeights& layer : weights_.layers) {
    for (const LinearWeight* weight : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down}) {
      bytes += weight->bytes();
    }
    for (const Buffer* vector : {&layer.input_norm, &layer.qkv_bias, &layer.q_norm, &layer.k_norm,
                                 &layer.post_attn_norm}) {
      bytes += vector->bytes();
    }
  }
  return static_cast<int64_t>(bytes);
}

}  // namespace qwenserve
