#ifndef QWENSERVE_ENGINE_RUNTIME_MEASURING_BACKEND_H_
#define QWENSERVE_ENGINE_RUNTIME_MEASURING_BACKEND_H_

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/device_memory.h"

namespace qwenserve {

// A backend that only counts what is asked of it: what takes its memory from a backend is measured
// by running it over this one. Its buffers are empty, and it has no ops.
class MeasuringBackend final : public Backend {
 public:
  explicit MeasuringBackend(DeviceKind kind) : kind_(kind) {}

  int64_t bytes() const { return bytes_; }

  std::string kernel_table(WeightFormat) const override { return "none"; }
  DType activation_type() const override { return ActivationType(kind_); }
  absl::StatusOr<Buffer> Allocate(size_t bytes) override {
    bytes_ += static_cast<int64_t>(bytes);
    return Buffer();
  }
  size_t KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const override {
    return static_cast<size_t>(qwenserve::KvBytesPerBlock(kind_, heads, format));
  }
  int64_t PaddedRows(int64_t rows) const override { return qwenserve::PaddedRows(kind_, rows); }
  // Ranks with GPUs gather whole rows.
  ShardSampler* shard_sampler() override {
    return kind_ == DeviceKind::kCpu ? &no_sampler_ : nullptr;
  }

  void CopyToDevice(const void*, size_t, void*) override {}
  void CopyToHost(const void*, size_t, void*) override {}
  absl::Status Sync() override { return absl::OkStatus(); }
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock>, int64_t) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape&,
                                             const QuantizedRowSource&) override {
    return absl::UnimplementedError("");
  }
  void TakeDrawn(const int32_t*, int64_t, int32_t*) override {}
  void Embed(const int32_t*, int64_t, const LinearWeight&, int64_t, float*) override {}
  void RmsNorm(const float*, int64_t, int64_t, const float*, float, void*) override {}
  void AddRmsNorm(const float*, int64_t, int64_t, float*, const float*, float, void*) override {}
  void Linear(const void*, int64_t, const LinearWeight&, const float*, float*) override {}
  void NormRopeStoreKv(const AttentionBatch&, const HeadLayout&, const float*, const float*, float,
                       absl::Span<const RopeTable>, float*, const KvLayer&) override {}
  void PagedAttention(const AttentionBatch&, const HeadLayout&, const float*, const KvLayer&,
                      void*) override {}
  void SiluMul(const float*, int64_t, int64_t, void*) override {}
  void GatherRows(const void*, int64_t, const int32_t*, int64_t, void*) override {}
  void Sample(float*, int64_t, int64_t, absl::Span<const SampleRow>, int32_t*,
              SampledToken*) override {}

 private:
  class NoSampler final : public ShardSampler {
   public:
    bool Top(const float*, int64_t, int64_t, int64_t, std::vector<TokenLogit>*) override {
      return false;
    }
    ShardWeights Weigh(const SampleRow&, const float*, int64_t, int64_t, float) override {
      return {};
    }
    bool Draw(const SampleRow&, int64_t, const ShardedRow&, SampledToken*) override {
      return false;
    }
  };

  const DeviceKind kind_;
  int64_t bytes_ = 0;
  NoSampler no_sampler_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_MEASURING_BACKEND_H_
