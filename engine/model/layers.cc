#include "engine/model/layers.h"

#include "engine/base/status_macros.h"

namespace qwenserve {

absl::Status EmbedTokens(const ModelState& state, const ForwardBatch& batch) {
  const int64_t rows = batch.attention.num_rows;
  float* residual = state.activations->residual.as<float>();
  state.backend->Embed(batch.ids, rows, state.weights->embedding, state.shard->vocab.begin,
                       residual);
  return state.communicator->AllReduceSum(residual, rows * state.config->hidden_size);
}

absl::Status ReduceAddNorm(const ModelState& state, int64_t rows, const Buffer& norm) {
  float* hidden = state.activations->hidden.as<float>();
  const int64_t width = state.config->hidden_size;
  QS_RETURN_IF_ERROR(state.communicator->AllReduceSum(hidden, rows * width));
  state.backend->AddRmsNorm(hidden, rows, width, state.activations->residual.as<float>(),
                            norm.as<float>(), state.config->norm_epsilon, hidden);
  return absl::OkStatus();
}

absl::Status ProjectLogits(const ModelState& state, const ForwardBatch& batch) {
  if (batch.num_logit_rows == 0) return absl::OkStatus();
  const Activations& activations = *state.activations;
  float* wanted = activations.logit_hidden.as<float>();
  float* logits = activations.logits.as<float>();
  state.backend->GatherRows(activations.hidden.as<float>(), state.config->hidden_size,
                            batch.logit_rows, batch.num_logit_rows, wanted);
  state.backend->Linear(wanted, batch.num_logit_rows, state.weights->Head(), nullptr, logits);
  if (state.communicator->size() == 1) return absl::OkStatus();
  return state.communicator->AllGather(logits, batch.num_logit_rows, state.shard->max_vocab_rows,
                                       activations.gathered.as<float>());
}

LogitsView LogitsOf(const ModelState& state, const ForwardBatch& batch) {
  const Activations& activations = *state.activations;
  const Buffer& logits = state.shard->tp == 1 ? activations.logits : activations.gathered;
  return {logits.as<float>(), state.shard->tp * state.shard->max_vocab_rows};
}

}  // namespace qwenserve
