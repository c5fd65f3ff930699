#ifndef QWENSERVE_TESTS_KERNELS_TEST_DEVICE_H_
#define QWENSERVE_TESTS_KERNELS_TEST_DEVICE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "tests/kernels/host_ops.h"

namespace qwenserve {

// What the tests of a binary run on. The same tests are linked with cpu_test_device.cc (every
// instruction set of this machine), cuda/simt_test_device.cc (the emulated GPU) and
// cuda/cuda_test_device.cc (a real one).
std::vector<std::string> TestDeviceNames();

// NOT_FOUND when this machine has no such device; any other error fails the test. `variant` must
// change no bit: on a CPU the number of threads, in the emulation the order in which the threads of
// a block run.
absl::StatusOr<std::unique_ptr<Backend>> MakeTestDevice(const std::string& name, int variant);

// How large a problem tests may make, in multiplications: an emulated GPU does some 10^7 a second.
int64_t MaxTestWork();

// A test of one device, of each in turn.
class DeviceTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> made = MakeTestDevice(GetParam(), 2);
    if (absl::IsNotFound(made.status())) GTEST_SKIP() << "no device: " << made.status();
    ASSERT_TRUE(made.ok()) << made.status();
    device_ = *std::move(made);
    ops_.emplace(*device_);
  }

  std::unique_ptr<Backend> Another(int variant) const {
    return *MakeTestDevice(GetParam(), variant);
  }
  bool Rounds() const { return device_->activation_type() == DType::kBf16; }

  std::unique_ptr<Backend> device_;
  std::optional<HostOps> ops_;
};

#define QS_INSTANTIATE_FOR_TEST_DEVICES(fixture)                                   \
  INSTANTIATE_TEST_SUITE_P(Devices, fixture, testing::ValuesIn(TestDeviceNames()), \
                           [](const auto& info) { return info.param; })

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_TEST_DEVICE_H_
