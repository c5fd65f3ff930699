#ifndef QWENSERVE_TESTS_KERNELS_FORWARDING_BACKEND_H_
#define QWENSERVE_TESTS_KERNELS_FORWARDING_BACKEND_H_

#include <memory>
#include <string>
#include <utility>

#include "kernels/wrapping_backend.h"

namespace qwenserve {

// Hands everything to another backend, but for the groups of devices: for tests that change one
// thing.
class ForwardingBackend : public WrappingBackend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> device)
      : WrappingBackend(std::move(device)) {}

  std::string description() const override { return device().description(); }
  bool invariant() const override { return device().invariant(); }
  DType activation_type() const override { return device().activation_type(); }
  absl::Status SupportsKv(KvFormat format, const HeadLayout& heads) const override {
    return device().SupportsKv(format, heads);
  }
  std::optional<DeviceMemory> memory() const override { return device().memory(); }
  int64_t PaddedRows(int64_t rows) const override { return device().PaddedRows(rows); }
  absl::Status Replay(uint64_t key, absl::FunctionRef<absl::Status()> issue) override {
    return device().Replay(key, issue);
  }
  void ForgetReplays() override { device().ForgetReplays(); }
  absl::Status Sync() override { return device().Sync(); }
  uint64_t Mark() override { return device().Mark(); }
  absl::Status Wait(uint64_t mark) override { return device().Wait(mark); }
  void* native_stream() override { return device().native_stream(); }
  void TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) override {
    device().TakeDrawn(drawn, rows, ids);
  }
  void Embed(const int32_t* ids, int64_t rows, const LinearWeight& table, int64_t first_id,
             float* out) override {
    device().Embed(ids, rows, table, first_id, out);
  }
  void RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight, float epsilon,
               void* out) override {
    device().RmsNorm(x, rows, width, weight, epsilon, out);
  }
  void AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual, const float* weight,
                  float epsilon, void* out) override {
    device().AddRmsNorm(x, rows, width, residual, weight, epsilon, out);
  }
  void Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
              float* out) override {
    device().Linear(x, rows, weight, bias, out);
  }
  void LinearSwiGlu(const void* x, int64_t rows, const LinearWeight& gate_up, float* scratch,
                    void* out) override {
    device().LinearSwiGlu(x, rows, gate_up, scratch, out);
  }
  void NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads, const float* q_norm,
                       const float* k_norm, float epsilon, absl::Span<const RopeTable> rope,
                       float* qkv, const KvLayer& kv) override {
    device().NormRopeStoreKv(batch, heads, q_norm, k_norm, epsilon, rope, qkv, kv);
  }
  void PagedAttention(const AttentionBatch& batch, const HeadLayout& heads, const float* qkv,
                      const KvLayer& kv, void* out) override {
    device().PagedAttention(batch, heads, qkv, kv, out);
  }
  void SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) override {
    device().SiluMul(gate_up, rows, width, out);
  }
  void GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows,
                  void* out) override {
    device().GatherRows(x, width, rows, num_rows, out);
  }
  void Sample(float* logits, int64_t stride, int64_t vocab_size, absl::Span<const SampleRow> rows,
              int32_t* drawn, SampledToken* tokens) override {
    device().Sample(logits, stride, vocab_size, rows, drawn, tokens);
  }
  bool reads_last_id() const override { return device().reads_last_id(); }
  ShardSampler* shard_sampler() override { return device().shard_sampler(); }
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_FORWARDING_BACKEND_H_
