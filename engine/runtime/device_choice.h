#ifndef QWENSERVE_ENGINE_RUNTIME_DEVICE_CHOICE_H_
#define QWENSERVE_ENGINE_RUNTIME_DEVICE_CHOICE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace qwenserve {

// The device for `wanted` (EngineOptions::device). "auto" is cuda where each of `ranks` ranks has a
// GPU, else cpu, and why is one more of `reasons`. `gpus`: what CountCudaDevices says.
//
// Errors: for "cuda", what is missing; for both, what is there but too old.
absl::StatusOr<std::string> ChooseDevice(const std::string& wanted, int ranks,
                                         const absl::StatusOr<int>& gpus,
                                         std::vector<std::string>* reasons);

// "GPU kernels: sm_80 sm_90a compute_90", or that this build has none.
std::string GpuKernelsLine();

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_DEVICE_CHOICE_H_
