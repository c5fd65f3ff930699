#include "engine/quantize/calibration_pass.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/check.h"

namespace qwenserve {

CalibrationPass::CalibrationPass(const LayerSource& source, const CalibrationIds& ids,
                                 Backend& backend, ThreadPool& pool,
                                 std::function<bool()> cancelled)
    : source_(source),
      config_(source.config()),
      backend_(backend),
      pool_(pool),
      cancelled_(std::move(cancelled)),
      pieces_(static_cast<int64_t>(ids.size())),
      length_(static_cast<int64_t>(ids.front().size())) {}

absl::StatusOr<std::unique_ptr<CalibrationPass>> CalibrationPass::Create(
    const LayerSource& source, const CalibrationIds& ids, Backend& backend, ThreadPool& pool,
    std::function<bool()> cancelled) {
  QS_CHECK(!ids.empty() && !ids.front().empty());
  std::unique_ptr<CalibrationPass> pass(
      new CalibrationPass(source, ids, backend, pool, std::move(cancelled)));
  QS_RETURN_IF_ERROR(pass->TakeMemory());
  QS_RETURN_IF_ERROR(pass->Embed(ids));
  return pass;
}

absl::Status CalibrationPass::TakeMemory() {
  QS_ASSIGN_OR_RETURN(const ShardPlan shard, MakeShardPlan(config_, 1, 0));
  heads_ = shard.Heads(config_);
  const struct {
    Buffer* buffer;
    int64_t rows;
    int64_t width;
  } kBuffers[] = {
      {&residual_, tokens(), config_.hidden_size}, {&attention_, tokens(), heads_.query_width()},
      {&hidden_, length_, config_.hidden_size},    {&partial_, length_, config_.hidden_size},
      {&qkv_, length_, heads_.qkv_width()},        {&gate_up_, length_, 2 * config_.ffn_size},
      {&mlp_, length_, config_.ffn_size},
  };
  for (const auto& entry : kBuffers) {
    QS_ASSIGN_OR_RETURN(
        *entry.buffer,
        backend_.Allocate(static_cast<size_t>(entry.rows * entry.width * int64_t{sizeof(float)})));
  }
  const int64_t blocks = BlocksFor(length_);
  QS_ASSIGN_OR_RETURN(kv_, KvCache::Create(heads_, KvFormat::kBf16, 1, blocks, backend_));
  QS_ASSIGN_OR_RETURN(batch_, SequenceBatch::Create(config_, length_, backend_));
  return absl::OkStatus();
}

absl::Status CalibrationPass::Embed(const CalibrationIds& ids) {
  float* row = residual_.as<float>();
  for (const std::vector<int32_t>& piece : ids) {
    QS_CHECK(static_cast<int64_t>(piece.size()) == length_);
    for (int32_t id : piece) {
      if (id < 0 || id >= config_.vocab_size) {
        return absl::InvalidArgumentError(
            absl::StrCat("calibration: id ", id, " of a vocabulary of ", config_.vocab_size));
      }
      source_.ReadRow(-1, WeightField::kEmbedding, id, row);
      row += config_.hidden_size;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Buffer> CalibrationPass::LoadVector(WeightField field) {
  const std::vector<float> values = source_.Read(layer_, field);
  if (values.empty()) return Buffer();
  QS_ASSIGN_OR_RETURN(Buffer buffer, backend_.Allocate(values.size() * sizeof(float)));
  backend_.CopyToDevice(values.data(), values.size() * sizeof(float), buffer.data());
  return buffer;
}

absl::Status CalibrationPass::Begin(int64_t layer) {
  layer_ = layer;
  QS_ASSIGN_OR_RETURN(input_norm_, LoadVector(WeightField::kInputNorm));
  QS_ASSIGN_OR_RETURN(qkv_bias_, LoadVector(WeightField::kQkvBias));
  QS_ASSIGN_OR_RETURN(q_norm_, LoadVector(WeightField::kQNorm));
  QS_ASSIGN_OR_RETURN(k_norm_, LoadVector(WeightField::kKNorm));
  QS_ASSIGN_OR_RETURN(post_attn_norm_, LoadVector(WeightField::kPostAttnNorm));
  return absl::OkStatus();
}

absl::Status CalibrationPass::ForEachPiece(absl::FunctionRef<void(float*, float*)> work) {
  for (int64_t piece = 0; piece < pieces_; ++piece) {
    if (cancelled_()) return absl::CancelledError("interrupted");
    work(residual_.as<float>() + piece * length_ * config_.hidden_size,
         attention_.as<float>() + piece * length_ * heads_.query_width());
  }
  return backend_.Sync();
}

absl::StatusOr<Hessian> CalibrationPass::Collect(
    int64_t width, absl::FunctionRef<const float*(float*, float*)> inputs) {
  Hessian hessian(width);
  QS_RETURN_IF_ERROR(ForEachPiece([&](float* residual, float* attention) {
    hessian.Add(pool_, inputs(residual, attention), length_);
  }));
  QS_RETURN_IF_ERROR(hessian.CheckFinite());
  return hessian;
}

absl::StatusOr<Hessian> CalibrationPass::QkvInputs() {
  float* hidden = hidden_.as<float>();
  return Collect(config_.hidden_size, [&](float* residual, float*) {
    backend_.RmsNorm(residual, length_, config_.hidden_size, input_norm_.as<float>(),
                     config_.norm_epsilon, hidden);
    return hidden;
  });
}

absl::StatusOr<Hessian> CalibrationPass::AttnOutInputs(const LinearWeight& qkv) {
  float* hidden = hidden_.as<float>();
  float* heads = qkv_.as<float>();
  const KvLayer& kv = kv_.layers().front();
  const AttentionBatch batch = batch_.Rows(length_, 0, length_, backend_);
  return Collect(heads_.query_width(), [&](float* residual, float* attention) {
    backend_.RmsNorm(residual, length_, config_.hidden_size, input_norm_.as<float>(),
                     config_.norm_epsilon, hidden);
    backend_.Linear(hidden, length_, qkv, qkv_bias_.as<float>(), heads);
    backend_.NormRopeStoreKv(batch, heads_, q_norm_.as<float>(), k_norm_.as<float>(),
                             config_.norm_epsilon, batch_.rope(), heads, kv);
    backend_.PagedAttention(batch, heads_, heads, kv, attention);
    return attention;
  });
}

absl::StatusOr<Hessian> CalibrationPass::GateUpInputs(const LinearWeight& attn_out) {
  float* hidden = hidden_.as<float>();
  float* partial = partial_.as<float>();
  return Collect(config_.hidden_size, [&](float* residual, float* attention) {
    backend_.Linear(attention, length_, attn_out, nullptr, partial);
    backend_.AddRmsNorm(partial, length_, config_.hidden_size, residual,
                        post_attn_norm_.as<float>(), config_.norm_epsilon, hidden);
    return hidden;
  });
}

absl::StatusOr<Hessian> CalibrationPass::DownInputs(const LinearWeight& gate_up) {
  float* hidden = hidden_.as<float>();
  float* mlp = mlp_.as<float>();
  return Collect(config_.ffn_size, [&](float* residual, float*) {
    backend_.RmsNorm(residual, length_, config_.hidden_size, post_attn_norm_.as<float>(),
                     config_.norm_epsilon, hidden);
    backend_.Linear(hidden, length_, gate_up, nullptr, gate_up_.as<float>());
    backend_.SiluMul(gate_up_.as<float>(), length_, config_.ffn_size, mlp);
    return mlp;
  });
}

absl::Status CalibrationPass::End(const LinearWeight& gate_up, const LinearWeight& down) {
  float* hidden = hidden_.as<float>();
  float* partial = partial_.as<float>();
  return ForEachPiece([&](float* residual, float*) {
    backend_.RmsNorm(residual, length_, config_.hidden_size, post_attn_norm_.as<float>(),
                     config_.norm_epsilon, hidden);
    backend_.Linear(hidden, length_, gate_up, nullptr, gate_up_.as<float>());
    backend_.SiluMul(gate_up_.as<float>(), length_, config_.ffn_size, mlp_.as<float>());
    backend_.Linear(mlp_.as<float>(), length_, down, nullptr, partial);
    // The norm itself is not needed: the next layer's is taken by QkvInputs.
    backend_.AddRmsNorm(partial, length_, config_.hidden_size, residual,
                        post_attn_norm_.as<float>(), config_.norm_epsilon, hidden);
  });
}

}  // namespace qwenserve
