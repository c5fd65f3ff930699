#include "engine/model/layers.h"

#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace qwenserve {

absl::Status EmbedTokens(const ModelState& state, const ForwardBatch& batch) {
  const int64_t rows = batch.attention.num_rows;
  float* residual = state.activations->residual.as<float>();
  state.backend->Embed(batch.ids, rows, state.weights->embedding, state.shard->vocab.begin,
                       residual);
  return state.communicator->AllReduceSum(residual, rows * state.config->hidden_size);
}

absl::Status ReduceAddNorm(const ModelState& state, int64_t rows, const Buffer& norm) {
  float* partial = state.activations->partial.as<float>();
  const int64_t width = state.config->hidden_size;
  QS_RETURN_IF_ERROR(state.communicator->AllReduceSum(partial, rows * width));
  state.backend->AddRmsNorm(partial, rows, width, state.activations->residual.as<float>(),
                            norm.as<float>(), state.config->norm_epsilon,
                            state.activations->hidden.data());
  return absl::OkStatus();
}

void ProjectLogits(const ModelState& state, const int32_t* rows, int64_t num_rows) {
  QS_CHECK(num_rows > 0 && num_rows <= state.activations->max_logit_rows);
  const Activations& activations = *state.activations;
  void* wanted = activations.logit_hidden.data();
  float* logits = activations.logits.as<float>();
  state.backend->GatherRows(activations.hidden.data(), state.config->hidden_size, rows, num_rows,
                            wanted);
  state.backend->Linear(wanted, num_rows, state.weights->Head(), nullptr, logits);
}

absl::Status GatherLogits(const ModelState& state, int64_t first, int64_t count, int64_t to) {
  if (state.communicator->size() == 1) return absl::OkStatus();
  const Activations& activations = *state.activations;
  const int64_t width = state.shard->max_vocab_rows;
  return state.communicator->AllGather(
      activations.logits.as<float>() + first * width, count, width,
      activations.gathered.as<float>() + to * state.shard->tp * width);
}

LogitsView LogitsOf(const ModelState& state) {
  const Activations& activations = *state.activations;
  const Buffer& logits = state.shard->tp == 1 ? activations.logits : activations.gathered;
  return {logits.as<float>(), state.shard->tp * state.shard->max_vocab_rows};
}

}  // namespace qwenserve
