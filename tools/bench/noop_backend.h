#ifndef QWENSERVE_TOOLS_BENCH_NOOP_BACKEND_H_
#define QWENSERVE_TOOLS_BENCH_NOOP_BACKEND_H_

#include <memory>
#include <string>
#include <utility>

#include "kernels/backend.h"

namespace qwenserve {

// A backend that has memory but computes nothing: every op returns at once, and every row draws the
// same token. What an engine then spends on a step is what it spends beside the kernels.
class NoopBackend final : public Backend {
 public:
  // `device` keeps the memory.
  explicit NoopBackend(std::unique_ptr<Backend> device) : device_(std::move(device)) {}

  std::string kernel_table(WeightFormat) const override { return "none"; }
  absl::StatusOr<Buffer> Allocate(size_t bytes) override { return device_->Allocate(bytes); }
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

  void Embed(const int32_t*, int64_t, const LinearWeight&, int64_t, float*) override {}
  void TakeDrawn(const int32_t*, int64_t, int32_t*) override {}
  void RmsNorm(const float*, int64_t, int64_t, const float*, float, void*) override {}
  void AddRmsNorm(const float*, int64_t, int64_t, float*, const float*, float, void*) override {}
  void Linear(const void*, int64_t, const LinearWeight&, const float*, float*) override {}
  void NormRopeStoreKv(const AttentionBatch&, const HeadLayout&, const float*, const float*, float,
                       absl::Span<const RopeTable>, float*, const KvLayer&) override {}
  void PagedAttention(const AttentionBatch&, const HeadLayout&, const float*, const KvLayer&,
                      void*) override {}
  void SiluMul(const float*, int64_t, int64_t, void*) override {}
  void GatherRows(const void*, int64_t, const int32_t*, int64_t, void*) override {}
  void Sample(float*, int64_t, int64_t, absl::Span<const SampleRow> rows, int32_t*,
              SampledToken* tokens) override {
    for (size_t i = 0; i < rows.size(); ++i) tokens[i] = {.id = 1};
  }
  absl::Status Sync() override { return absl::OkStatus(); }

 private:
  const std::unique_ptr<Backend> device_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_NOOP_BACKEND_H_
