#ifndef QWENSERVE_KERNELS_CUDA_COMM_NCCL_COMMUNICATOR_H_
#define QWENSERVE_KERNELS_CUDA_COMM_NCCL_COMMUNICATOR_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/communicator.h"
#include "kernels/cuda/comm/comm_kernels.h"
#include "kernels/cuda/comm/nccl_api.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "kernels/steady_clock.h"

namespace qwenserve {

// How a sum of `count` floats over `size` ranks goes. All ways give the same bits.
enum class SumWay {
  kLibrary,  // two ranks: NCCL's own, since a + b = b + a
  kWhole,    // all parts to every rank, which adds them: one exchange
  kSlices,   // each rank adds its slice and hands it to the others: two exchanges, less traffic
};
struct SumPlan {
  SumWay way = SumWay::kWhole;
  int64_t slice = 0;  // kSlices: floats of each rank's slice, but for the last ones' that have less
  // Floats of scratch memory that it takes.
  int64_t scratch = 0;
};
// From so many floats on a sum goes by slices (an estimate; to be measured on GPUs).
inline constexpr int64_t kSumSlicesFrom = 65536;
SumPlan PlanSum(int size, int64_t count);

// Scratch memory for sums of up to `max_sum` floats; longer ones go in pieces.
int64_t ScratchFloats(int size, int64_t max_sum);

// Makes DeviceGroup::id: NCCL's unique id and the library's version. FAILED_PRECONDITION as
// LoadNccl; UNAVAILABLE where NCCL finds no network interface.
absl::StatusOr<std::string> NewNcclGroup(const std::string& library);
absl::StatusOr<std::string> NewNcclGroup(const NcclApi& api);

// The collectives of GPUs, through NCCL, in the device's compute stream. Data is device memory.
// Memory is taken and every collective is done once before this returns, so that none of it happens
// in the middle of a recording. FAILED_PRECONDITION also when the ranks' libraries differ.
//
// The first two functions load the library that `group` names. `device` must outlive the
// communicator, whose destructor waits for pending work, but not for ever.
absl::StatusOr<std::unique_ptr<Communicator>> JoinNcclGroup(GpuDevice& device,
                                                            const CommKernels& kernels,
                                                            const DeviceGroup& group);
absl::StatusOr<std::unique_ptr<Communicator>> JoinNcclGroup(const NcclApi& api, GpuDevice& device,
                                                            const CommKernels& kernels,
                                                            const DeviceGroup& group,
                                                            SteadyClock& clock);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_COMM_NCCL_COMMUNICATOR_H_
