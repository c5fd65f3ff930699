#ifndef QWENSERVE_TESTS_ENGINE_RUNTIME_LIMITED_BACKEND_H_
#define QWENSERVE_TESTS_ENGINE_RUNTIME_LIMITED_BACKEND_H_

#include <memory>
#include <string>
#include <utility>

#include "kernels/backend.h"

namespace qwenserve {

// Another backend as a device with memory of its own, of `total` bytes, of which `taken` counts all
// that was ever asked for.
class LimitedBackend final : public Backend {
 public:
  LimitedBackend(std::unique_ptr<Backend> device, size_t total, size_t* taken)
      : device_(std::move(device)), total_(total), taken_(taken) {}

  std::optional<DeviceMemory> memory() const override {
    return DeviceMemory{total_ - *taken_, total_};
  }
  absl::StatusOr<Buffer> Allocate(size_t bytes) override {
    *taken_ += bytes;
    return device_->Allocate(bytes);
  }
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks,
                                          int64_t in_features) override {
    return Count(device_->PackLinear(blocks, in_features));
  }
  absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape& shape,
                                             const QuantizedRowSource& rows) override {
    return Count(device_->PackQuantized(shape, rows));
  }

  std::string kernel_table(WeightFormat weights) const override {
    return device_->kernel_table(weights);
  }
  void CopyToDevice(const void* host, size_t bytes, void* device) override {
    device_->CopyToDevice(host, bytes, device);
  }
  void CopyToHost(const void* device, size_t bytes, void* host) override {
    device_->CopyToHost(device, bytes, host);
  }
  size_t KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const override {
    return device_->KvBytesPerBlock(heads, format);
  }
  void TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) override {
    device_->TakeDrawn(drawn, rows, ids);
  }
  void Embed(const int32_t* ids, int64_t rows, const LinearWeight& table, int64_t first_id,
             float* out) override {
    device_->Embed(ids, rows, table, first_id, out);
  }
  void RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight, float epsilon,
               void* out) override {
    device_->RmsNorm(x, rows, width, weight, epsilon, out);
  }
  void AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual, const float* weight,
                  float epsilon, void* out) override {
    device_->AddRmsNorm(x, rows, width, residual, weight, epsilon, out);
  }
  void Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
              float* out) override {
    device_->Linear(x, rows, weight, bias, out);
  }
  void NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads, const float* q_norm,
                       const float* k_norm, float epsilon, absl::Span<const RopeTable> rope,
                       float* qkv, const KvLayer& kv) override {
    device_->NormRopeStoreKv(batch, heads, q_norm, k_norm, epsilon, rope, qkv, kv);
  }
  void PagedAttention(const AttentionBatch& batch, const HeadLayout& heads, const float* qkv,
                      const KvLayer& kv, void* out) override {
    device_->PagedAttention(batch, heads, qkv, kv, out);
  }
  void SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) override {
    device_->SiluMul(gate_up, rows, width, out);
  }
  void GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows,
                  void* out) override {
    device_->GatherRows(x, width, rows, num_rows, out);
  }
  void Sample(float* logits, int64_t stride, int64_t vocab_size, absl::Span<const SampleRow> rows,
              int32_t* drawn, SampledToken* tokens) override {
    device_->Sample(logits, stride, vocab_size, rows, drawn, tokens);
  }
  ShardSampler* shard_sampler() override { return device_->shard_sampler(); }
  absl::Status Sync() override { return device_->Sync(); }

 private:
  absl::StatusOr<LinearWeight> Count(absl::StatusOr<LinearWeight> weight) {
    if (weight.ok()) *taken_ += weight->bytes();
    return weight;
  }

  const std::unique_ptr<Backend> device_;
  const size_t total_;
  size_t* const taken_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_RUNTIME_LIMITED_BACKEND_H_
