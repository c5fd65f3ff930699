#ifndef QWENSERVE_ENGINE_RUNTIME_DEVICE_MEMORY_REPORT_H_
#define QWENSERVE_ENGINE_RUNTIME_DEVICE_MEMORY_REPORT_H_

#include <memory>
#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "engine/base/monotonic_time.h"
#include "engine/parallel/rank_group.h"
#include "kernels/backend.h"

namespace qwenserve {

// Tells the group how full a rank's device is: when it is made, and after a step every few seconds,
// since the question may take as long as a small step. Used by the rank's thread.
class DeviceMemoryReport {
 public:
  static constexpr absl::Duration kInterval = absl::Seconds(5);

  // `backend` is the rank's and must outlive it.
  DeviceMemoryReport(std::shared_ptr<RankGroup> group, int rank, const Backend& backend)
      : group_(std::move(group)), rank_(rank), backend_(backend) {
    Report();
  }

  void OnStepEnd() {
    if (has_device_ && MonotonicNow() >= next_) Report();
  }

 private:
  void Report() {
    const std::optional<DeviceMemory> memory = backend_.memory();
    has_device_ = memory.has_value();
    if (!has_device_) return;
    group_->SetDeviceMemory(rank_, memory->total_bytes - memory->free_bytes, memory->total_bytes);
    next_ = MonotonicNow() + kInterval;
  }

  const std::shared_ptr<RankGroup> group_;
  const int rank_;
  const Backend& backend_;
  bool has_device_ = false;
  absl::Time next_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_DEVICE_MEMORY_REPORT_H_
