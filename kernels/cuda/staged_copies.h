#ifndef QWENSERVE_KERNELS_CUDA_STAGED_COPIES_H_
#define QWENSERVE_KERNELS_CUDA_STAGED_COPIES_H_

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/buffer.h"
#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

// Copies between a device and ordinary host memory, in the order of kCompute, by way of pinned
// memory: a device reads ordinary memory only while the caller waits. To the device they are done
// in the background and the source may go at once; from there the caller waits.
//
// The pinned memory is a ring of kParts parts. A part is filled by one copy after another and
// waited for only when its turn comes again, so that small copies cost no event.
class StagedCopies {
 public:
  static constexpr size_t kParts = 4;

  // `timeout`: of any one wait for the device. `device` must outlive it.
  StagedCopies(GpuDevice& device, size_t part_bytes, absl::Duration timeout);
  StagedCopies(const StagedCopies&) = delete;
  ~StagedCopies();

  // Takes the pinned memory. RESOURCE_EXHAUSTED.
  absl::Status Init();

  // The error of a wait; nothing more is issued then.
  absl::Status ToDevice(const void* host, size_t bytes, void* device);
  // Waits for all that was issued before; on an error `host` is as it was.
  absl::Status ToHost(const void* device, size_t bytes, void* host);

 private:
  struct Part {
    char* data = nullptr;
    size_t used = 0;
    GpuEvent copied = 0;  // 0: nothing to wait for
  };

  // Leaves the current part to the device and waits for the next one.
  absl::Status NextPart();
  absl::Status WaitAndRelease(GpuEvent event);

  GpuDevice& device_;
  const size_t part_bytes_;
  const absl::Duration timeout_;
  Buffer ring_;
  Part parts_[kParts];
  size_t current_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_STAGED_COPIES_H_
