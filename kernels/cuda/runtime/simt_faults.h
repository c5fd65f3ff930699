#ifndef QWENSERVE_KERNELS_CUDA_RUNTIME_SIMT_FAULTS_H_
#define QWENSERVE_KERNELS_CUDA_RUNTIME_SIMT_FAULTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "kernels/cuda/runtime/gpu_device.h"

namespace qwenserve {

// What a test can make go wrong on an emulated GPU, and see of it. Any thread, at any time.
class SimtFaults {
 public:
  // Device memory as a whole; Allocate fails where it would go beyond. 8 GiB at first.
  void SetTotalMemory(size_t bytes);
  // Pinned host memory, likewise; 8 GiB at first.
  void SetTotalPinned(size_t bytes);
  // The device fails as if by a kernel, after `launches` more launches: what is issued then does
  // nothing, Check, Wait and Synchronize return `error`.
  void FailAfter(int64_t launches, absl::Status error);
  // What is recorded from now on makes no graph; the device stays as it is.
  void FailCaptures();
  // No event is done until Resume; what is issued is still computed.
  void Hang();
  void Resume();

  // Since the beginning: kernels run (those of graphs too), graphs launched.
  int64_t launches() const;
  int64_t graph_launches() const;

 private:
  friend class SimtDevice;
  mutable std::mutex mutex_;
  // Protected by mutex_.
  size_t total_memory_ = size_t{8} << 30;
  size_t total_pinned_ = size_t{8} << 30;
  int64_t launches_left_ = -1;  // until error_; -1: never
  absl::Status error_;
  bool hanging_ = false;
  bool captures_fail_ = false;
  int64_t launches_ = 0;
  int64_t graph_launches_ = 0;
};

// MakeSimtDevice with faults; null: none.
std::unique_ptr<GpuDevice> MakeSimtDevice(uint64_t seed, std::shared_ptr<SimtFaults> faults);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_RUNTIME_SIMT_FAULTS_H_
