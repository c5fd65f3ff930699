#ifndef QWENSERVE_KERNELS_CUDA_COMM_NCCL_SCRATCH_H_
#define QWENSERVE_KERNELS_CUDA_COMM_NCCL_SCRATCH_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/buffer.h"
#include "kernels/cuda/comm/nccl_session.h"
#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

// The memory that collectives put parts into. Where the library and all ranks' drivers can do it,
// it lies at the same place in all of them (a symmetric window), which NCCL reaches with less
// delay. All ranks take it together. Must go after the session has left.
class NcclScratch {
 public:
  static absl::StatusOr<std::unique_ptr<NcclScratch>> Take(GpuDevice& device, NcclSession& session,
                                                           int64_t floats);
  // A window that could not be closed keeps its memory until the process ends: giving it back could
  // wait for ever.
  ~NcclScratch();
  // Before the session leaves.
  void CloseWindow();

  float* data() const;
  int64_t floats() const { return floats_; }
  bool symmetric() const { return window_ != nullptr; }

 private:
  NcclScratch(NcclSession& session, int64_t floats) : session_(session), floats_(floats) {}
  absl::Status TakeWindow(GpuDevice& device);

  NcclSession& session_;
  const int64_t floats_;
  Buffer plain_;
  void* shared_ = nullptr;  // of NCCL
  NcclWindow window_ = nullptr;
};

// Until all that was issued to the compute stream is done. When the session fails or its time is
// up, it is ended.
absl::Status WaitForDevice(GpuDevice& device, NcclSession& session);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_COMM_NCCL_SCRATCH_H_
