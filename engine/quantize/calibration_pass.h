#ifndef QWENSERVE_ENGINE_QUANTIZE_CALIBRATION_PASS_H_
#define QWENSERVE_ENGINE_QUANTIZE_CALIBRATION_PASS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/cache/kv_cache.h"
#include "engine/evaluate/sequence_batch.h"
#include "engine/quantize/hessian.h"
#include "engine/quantize/layer_source.h"
#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace qwenserve {

// Token ids of one piece of calibration text; all pieces of a run have one length.
using CalibrationIds = std::vector<std::vector<int32_t>>;

// The forward pass of the calibration text through one layer after the other, with the engine's own
// ops, so that the activations are those of the engine (float activations: a quantised engine
// rounds them a little more). A layer goes in five steps, in this order; each takes the quantised
// weights of the steps before, which is why the inputs of a matrix already hold all errors of the
// weights in front of it:
//
//   Begin(layer); QkvInputs(); AttnOutInputs(qkv); GateUpInputs(attn_out); DownInputs(gate_up);
//   End(gate_up, down)
//
// Between steps only two vectors per token are kept (residual and attention output); the rest is
// computed again, at the price of one more gate_up product. On a host backend only. One thread.
class CalibrationPass {
 public:
  // `source`, `backend` and `pool` must outlive the pass. `cancelled` is asked before every piece
  // of text. INVALID_ARGUMENT for ids outside the vocabulary, RESOURCE_EXHAUSTED with the bytes
  // when the activations do not fit.
  static absl::StatusOr<std::unique_ptr<CalibrationPass>> Create(const LayerSource& source,
                                                                 const CalibrationIds& ids,
                                                                 Backend& backend, ThreadPool& pool,
                                                                 std::function<bool()> cancelled);

  absl::Status Begin(int64_t layer);
  // The second derivative for the matrix of each step. CANCELLED as `cancelled` says;
  // INVALID_ARGUMENT when an input is not finite.
  absl::StatusOr<Hessian> QkvInputs();
  absl::StatusOr<Hessian> AttnOutInputs(const LinearWeight& qkv);
  absl::StatusOr<Hessian> GateUpInputs(const LinearWeight& attn_out);
  absl::StatusOr<Hessian> DownInputs(const LinearWeight& gate_up);
  absl::Status End(const LinearWeight& gate_up, const LinearWeight& down);

  // The residual stream after the last End, [pieces * length, hidden_size].
  const float* residual() const { return residual_.as<float>(); }
  int64_t tokens() const { return pieces_ * length_; }

 private:
  CalibrationPass(const LayerSource& source, const CalibrationIds& ids, Backend& backend,
                  ThreadPool& pool, std::function<bool()> cancelled);
  absl::Status TakeMemory();
  absl::Status Embed(const CalibrationIds& ids);
  // Calls work(residual, attention) with each piece's rows.
  absl::Status ForEachPiece(absl::FunctionRef<void(float*, float*)> work);
  absl::StatusOr<Hessian> Collect(int64_t width,
                                  absl::FunctionRef<const float*(float*, float*)> inputs);
  absl::StatusOr<Buffer> LoadVector(WeightField field);

  const LayerSource& source_;
  const ModelConfig& config_;
  Backend& backend_;
  ThreadPool& pool_;
  const std::function<bool()> cancelled_;
  const int64_t pieces_;
  const int64_t length_;
  HeadLayout heads_;

  Buffer residual_;   // [tokens, hidden_size]
  Buffer attention_;  // [tokens, query_width]
  // One piece's: [length, width].
  Buffer hidden_, partial_, qkv_, gate_up_, mlp_;
  KvCache kv_;  // one layer, one piece
  SequenceBatch batch_;

  // Of the layer.
  int64_t layer_ = -1;
  Buffer input_norm_, qkv_bias_, q_norm_, k_norm_, post_attn_norm_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_CALIBRATION_PASS_H_
