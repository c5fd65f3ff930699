#ifndef QWENSERVE_TESTS_KERNELS_FORWARDING_BACKEND_H_
#define QWENSERVE_TESTS_KERNELS_FORWARDING_BACKEND_H_

#include <memory>
#include <string>
#include <utility>

#include "kernels/backend.h"

namespace qwenserve {

// Hands everything to another backend, but for the groups of devices: for tests that change one
// thing.
class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> device) : device_(std::move(device)) {}

  std::string kernel_table(WeightFormat weights) const override {
    return device_->kernel_table(weights);
  }
  std::string description() const override { return device_->description(); }
  bool invariant() const override { return device_->invariant(); }
  DType activation_type() const override { return device_->activation_type(); }
  absl::Status SupportsKv(KvFormat format, const HeadLayout& heads) const override {
    return device_->SupportsKv(format, heads);
  }
  absl::StatusOr<Buffer> Allocate(size_t bytes) override { return device_->Allocate(bytes); }
  std::optional<DeviceMemory> memory() const override { return device_->memory(); }
  void CopyToDevice(const void* host, size_t bytes, void* device) override {
    device_->CopyToDevice(host, bytes, device);
  }
  void CopyToHost(const void* device, size_t bytes, void* host) override {
    device_->CopyToHost(device, bytes, host);
  }
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks,
                                          int64_t in_features) override {
    return device_->PackLinear(blocks, in_features);
  }
  absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape& shape,
                                             const QuantizedRowSource& rows) override {
    return device_->PackQuantized(shape, rows);
  }
  size_t KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const override {
    return device_->KvBytesPerBlock(heads, format);
  }
  int64_t PaddedRows(int64_t rows) const override { return device_->PaddedRows(rows); }
  absl::Status Replay(uint64_t key, absl::FunctionRef<absl::Status()> issue) override {
    return device_->Replay(key, issue);
  }
  void ForgetReplays() override { device_->ForgetReplays(); }
  absl::Status Sync() override { return device_->Sync(); }
  uint64_t Mark() override { return device_->Mark(); }
  absl::Status Wait(uint64_t mark) override { return device_->Wait(mark); }
  void* native_stream() override { return device_->native_stream(); }
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
  void LinearSwiGlu(const void* x, int64_t rows, const LinearWeight& gate_up, float* scratch,
                    void* out) override {
    device_->LinearSwiGlu(x, rows, gate_up, scratch, out);
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
  bool reads_last_id() const override { return device_->reads_last_id(); }
  ShardSampler* shard_sampler() override { return device_->shard_sampler(); }

 private:
  const std::unique_ptr<Backend> device_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_FORWARDING_BACKEND_H_
