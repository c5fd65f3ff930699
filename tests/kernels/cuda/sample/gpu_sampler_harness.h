#ifndef QWENSERVE_TESTS_KERNELS_CUDA_SAMPLE_GPU_SAMPLER_HARNESS_H_
#define QWENSERVE_TESTS_KERNELS_CUDA_SAMPLE_GPU_SAMPLER_HARNESS_H_

#include <bit>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/runtime/gpu_buffer.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "kernels/cuda/sample/gpu_sampler.h"

namespace qwenserve {

// A device with its kernels of sampling: the emulation, or a GPU.
struct SamplingDevice {
  std::unique_ptr<GpuDevice> device;
  SamplingKernels kernels;
};

inline SamplingDevice Emulation(uint64_t seed = 1) {
  return {MakeSimtDevice(seed), on_simt::GetSamplingKernels()};
}

// Rows of logits in host memory to tokens.
class GpuSamplerHarness {
 public:
  explicit GpuSamplerHarness(SamplingDevice device = Emulation())
      : device_(std::move(device.device)), sampler_(*device_, device.kernels) {}

  std::vector<SampledToken> Sample(const std::vector<float>& logits, int64_t stride,
                                   int64_t vocab_size, absl::Span<const SampleRow> rows) {
    std::vector<SampledToken> tokens(rows.size());
    Issue(logits, stride, vocab_size, rows, tokens.data());
    Wait();
    // The device's copy says the same.
    std::vector<int32_t> drawn(rows.size());
    device_->CopyToHost(drawn.data(), drawn_.data(), rows.size() * sizeof(int32_t),
                        GpuStream::kCompute);
    EXPECT_TRUE(device_->Synchronize(absl::Seconds(10)).ok());
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(drawn[i], tokens[i].id);
    return tokens;
  }

  SampledToken Draw(const std::vector<float>& logits, const SampleRow& row, int64_t vocab = 0) {
    const auto stride = static_cast<int64_t>(logits.size());
    return Sample(logits, stride, vocab == 0 ? stride : vocab, {&row, 1})[0];
  }

  // The same logits for many rows.
  std::vector<SampledToken> DrawAll(const std::vector<float>& logits,
                                    absl::Span<const SampleRow> rows) {
    std::vector<float> all;
    for (size_t i = 0; i < rows.size(); ++i) all.insert(all.end(), logits.begin(), logits.end());
    const auto size = static_cast<int64_t>(logits.size());
    return Sample(all, size, size, rows);
  }

  void Issue(const std::vector<float>& logits, int64_t stride, int64_t vocab_size,
             absl::Span<const SampleRow> rows, SampledToken* tokens) {
    const size_t bytes = logits.size() * sizeof(float);
    // Also behind the last row's vocabulary nothing may be read or written.
    logits_ = Allocate(bytes - static_cast<size_t>(stride - vocab_size) * sizeof(float));
    drawn_ = Allocate(rows.size() * sizeof(int32_t));
    device_->CopyToDevice(logits_.data(), logits.data(), logits_.bytes(), GpuStream::kCompute);
    sampler_.Sample(logits_.as<float>(), stride, vocab_size, rows, drawn_.as<int32_t>(), tokens);
  }

  void Wait() {
    EXPECT_TRUE(device_->Synchronize(absl::Seconds(60)).ok());
    EXPECT_TRUE(sampler_.Deliver().ok());
  }

  Buffer Allocate(size_t bytes) {
    absl::StatusOr<Buffer> buffer = AllocateGpuBuffer(*device_, bytes);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    return *std::move(buffer);
  }
  GpuDevice& device() { return *device_; }
  GpuSampler& sampler() { return sampler_; }

 private:
  std::unique_ptr<GpuDevice> device_;
  GpuSampler sampler_;
  Buffer logits_, drawn_;
};

// The same token and bits.
inline void ExpectSame(const SampledToken& a, const SampledToken& b) {
  EXPECT_EQ(a.id, b.id);
  EXPECT_EQ(std::bit_cast<uint32_t>(a.logprob), std::bit_cast<uint32_t>(b.logprob));
  ASSERT_EQ(a.top.size(), b.top.size());
  for (size_t i = 0; i < a.top.size(); ++i) {
    EXPECT_EQ(a.top[i].id, b.top[i].id);
    EXPECT_EQ(std::bit_cast<uint32_t>(a.top[i].logprob), std::bit_cast<uint32_t>(b.top[i].logprob));
  }
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_CUDA_SAMPLE_GPU_SAMPLER_HARNESS_H_
