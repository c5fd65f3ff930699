#include "engine/runtime/device_choice.h"

#include "absl/strings/str_cat.h"
#include "kernels/cuda_info.h"

namespace qwenserve {
namespace {

// OK, or why there is no GPU for each rank.
absl::Status CheckGpus(int ranks, const absl::StatusOr<int>& gpus) {
  if (!gpus.ok()) return gpus.status();
  if (*gpus >= ranks) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("tp is ", ranks, ", and this machine has ", *gpus,
                                             *gpus == 1 ? " GPU" : " GPUs"));
}

}  // namespace

absl::StatusOr<std::string> ChooseDevice(const std::string& wanted, int ranks,
                                         const absl::StatusOr<int>& gpus,
                                         std::vector<std::string>* reasons) {
  if (wanted != "auto" && wanted != "cuda") return wanted;
  const absl::Status status = CheckGpus(ranks, gpus);
  if (status.ok()) return std::string("cuda");
  const bool cpu_will_do =
      absl::IsNotFound(status) || absl::IsUnavailable(status) || absl::IsUnimplemented(status);
  if (wanted == "cuda" || !cpu_will_do) {
    return absl::Status(status.code(), absl::StrCat("device ", wanted, ": ", status.message()));
  }
  reasons->push_back(absl::StrCat("device: cpu (", status.message(), ")"));
  return std::string("cpu");
}

std::string GpuKernelsLine() {
  const std::string architectures = CudaArchitectures();
  return absl::StrCat("GPU kernels: ",
                      architectures.empty() ? "none, this build is without CUDA" : architectures);
}

}  // namespace qwenserve
