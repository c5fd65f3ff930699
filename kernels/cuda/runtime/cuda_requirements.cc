#include "kernels/cuda/runtime/cuda_requirements.h"

#include "absl/strings/str_cat.h"

namespace qwenserve {

std::string CudaVersionName(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

absl::Status CheckCudaDriver(int driver_version, int runtime_version) {
  if (driver_version == 0) return absl::NotFoundError("this machine has no NVIDIA driver");
  const int major = runtime_version / 1000;
  if (driver_version / 1000 >= major) return absl::OkStatus();
  std::string driver;  // the first driver of that major version ("CUDA Compatibility")
  if (major == 12) driver = ", driver 525";
  if (major == 13) driver = ", driver 580";
  return absl::FailedPreconditionError(absl::StrCat(
      "the NVIDIA driver is too old: it supports CUDA ", CudaVersionName(driver_version),
      ", and CUDA ", major, ".0", driver, " or later is needed"));
}

absl::Status CheckCudaGpu(int index, absl::string_view name, int sm) {
  if (sm >= kMinSm) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "GPU ", index, " (", name, ") is too old: its compute capability is ", sm / 10, ".", sm % 10,
      ", and ", kMinSm / 10, ".", kMinSm % 10, " (Ampere) or later is needed"));
}

}  // namespace qwenserve
