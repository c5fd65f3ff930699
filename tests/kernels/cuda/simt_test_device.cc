#include "tests/kernels/cuda/simt_backend.h"
#include "tests/kernels/test_device.h"

namespace qwenserve {

std::vector<std::string> TestDeviceNames() { return {"simt"}; }

absl::StatusOr<std::unique_ptr<Backend>> MakeTestDevice(const std::string& name, int variant) {
  return MakeSimtBackend(static_cast<uint64_t>(variant));
}

int64_t MaxTestWork() { return 1 << 21; }

}  // namespace qwenserve
