#ifndef QWENSERVE_KERNELS_CUDA_RUNTIME_UPLOAD_RING_H_
#define QWENSERVE_KERNELS_CUDA_RUNTIME_UPLOAD_RING_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/buffer.h"
#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

struct UploadOptions {
  size_t buffer_bytes = size_t{16} << 20;
  int buffers = 6;
  int readers = 8;  // threads
  // A copy to the device that takes longer is an error.
  absl::Duration timeout = absl::Seconds(120);
};

// Brings much data to a device: several threads fill a ring of pinned buffers while those filled
// before are copied from. Memory is bounded by buffers * buffer_bytes, all of it taken at the
// start.
//
// One thread at a time, the one that uses the device.
class UploadRing {
 public:
  // Puts piece `index` into the buffer, of buffer_bytes; called once per piece, from the ring's
  // threads, so not with the device. An error ends the whole.
  using Fill = absl::FunctionRef<absl::Status(int64_t index, void* buffer)>;
  // Issues the copy of piece `index` and what comes after it to GpuStream::kCopy; called in the
  // order of the pieces, on the caller's thread. The buffer stays as it is until all that is done.
  using Deliver = absl::FunctionRef<absl::Status(int64_t index, const void* buffer)>;

  // `device` must outlive the ring. RESOURCE_EXHAUSTED without memory.
  static absl::StatusOr<std::unique_ptr<UploadRing>> Create(GpuDevice& device,
                                                            const UploadOptions& options);
  // Waits for the copies under way.
  ~UploadRing();

  size_t buffer_bytes() const { return options_.buffer_bytes; }

  // Returns when all pieces are delivered, or with the first error: of `deliver`, of the piece with
  // the lowest index that could not be filled, or of the device. The last copies may still run.
  absl::Status Run(int64_t pieces, Fill fill, Deliver deliver);

 private:
  class Filling;

  // `event`: of the copy from the buffer; 0 = none under way.
  struct Slot {
    Buffer memory;
    GpuEvent event = 0;
  };

  UploadRing(GpuDevice& device, const UploadOptions& options)
      : device_(device), options_(options) {}
  absl::Status DeliverAll(int64_t pieces, Filling& filling, Deliver deliver);
  // Gives buffers whose copies are done to the threads; waits for one where `wait` says so.
  absl::Status Reclaim(Filling& filling, bool wait);
  absl::Status FinishCopies();

  GpuDevice& device_;
  const UploadOptions options_;
  std::vector<Slot> slots_;
  std::vector<size_t> copying_;  // slots, in the order of their copies
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_RUNTIME_UPLOAD_RING_H_
