#include <cstdint>
#include <limits>

#include "tests/kernels/test_data.h"
#include "tests/kernels/test_device.h"

namespace qwenserve {

std::vector<std::string> TestDeviceNames() { return AvailableIsas(); }

absl::StatusOr<std::unique_ptr<Backend>> MakeTestDevice(const std::string& name, int variant) {
  return MakeCpuBackend({.num_threads = variant, .isa = name});
}

int64_t MaxTestWork() { return std::numeric_limits<int64_t>::max(); }

}  // namespace qwenserve
