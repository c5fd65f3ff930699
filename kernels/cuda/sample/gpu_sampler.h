#ifndef QWENSERVE_KERNELS_CUDA_SAMPLE_GPU_SAMPLER_H_
#define QWENSERVE_KERNELS_CUDA_SAMPLE_GPU_SAMPLER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/buffer.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "kernels/cuda/sample/context_counts.h"
#include "kernels/cuda/sample/sample_jobs.h"
#include "kernels/cuda/sample/sample_upload.h"
#include "kernels/sample_row.h"

namespace qwenserve {

// Backend::Sample on a GPU, with the bits of the CPU's sampler for equal logits. One copy to the
// device, two to nine kernels (SampleJob), one copy back; nothing waits. One thread.
//
// About 50 KiB of device memory for each row with top-k or top-p, and as much for one with top
// log-probabilities, and what its lists need; it grows as needed and is never given back.
class GpuSampler {
 public:
  // Nothing is allocated before the first call. `device` must outlive it.
  GpuSampler(GpuDevice& device, const SamplingKernels& kernels)
      : device_(device), kernels_(kernels) {}
  ~GpuSampler();

  // As Backend::Sample. All on GpuStream::kCompute. `tokens` is written by Deliver, and must live
  // until then.
  void Sample(float* logits, int64_t stride, int64_t vocab_size, absl::Span<const SampleRow> rows,
              int32_t* drawn, SampledToken* tokens);

  // Writes the tokens of all calls whose work is done on the device, oldest first: after a wait for
  // whatever was issued behind a call, its tokens are there. The first error of a call (no memory)
  // since the last time; such a call's tokens keep id -1.
  absl::Status Deliver();

 private:
  // Copies of one call that is under way.
  struct Flight {
    Buffer upload, download;  // pinned
    GpuEvent done = 0;
    SampledToken* tokens = nullptr;
    std::vector<int32_t> num_logprobs;
    size_t details_offset = 0;
  };

  absl::Status Issue(const SampleUpload& upload, const SampleArgs& shape,
                     absl::Span<const SampleRow> rows, Flight& flight);
  absl::Status PlaceScratch(const SampleUpload& upload, size_t rows, SampleArgs* args);
  // Jobs [begin, end), but for finish.
  void LaunchJobs(SampleArgs args, const SampleUpload& upload, int begin, int end, bool* behind);
  void Write(const Flight& flight);

  GpuDevice& device_;
  const SamplingKernels kernels_;
  ContextCounts counts_;
  Buffer upload_, scratch_;  // device
  // What was too small. To give memory back, CUDA waits for all work of the GPU, which may itself
  // wait for another rank of this process; together they are no more than what took their place.
  std::vector<Buffer> outgrown_;
  std::deque<std::unique_ptr<Flight>> flights_;
  std::vector<std::unique_ptr<Flight>> idle_;
  absl::Status status_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_SAMPLE_GPU_SAMPLER_H_
