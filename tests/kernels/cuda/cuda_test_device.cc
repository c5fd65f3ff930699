#include <limits>

#include "tests/kernels/test_device.h"

namespace qwenserve {

std::vector<std::string> TestDeviceNames() { return {"cuda"}; }

absl::StatusOr<std::unique_ptr<Backend>> MakeTestDevice(const std::string& name, int variant) {
  return MakeCudaBackend(CudaBackendOptions());
}

int64_t MaxTestWork() { return std::numeric_limits<int64_t>::max(); }

}  // namespace qwenserve
