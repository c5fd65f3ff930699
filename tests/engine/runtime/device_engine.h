#ifndef QWENSERVE_TESTS_ENGINE_RUNTIME_DEVICE_ENGINE_H_
#define QWENSERVE_TESTS_ENGINE_RUNTIME_DEVICE_ENGINE_H_

#include <memory>
#include <utility>

#include "engine/runtime/engine_options.h"
#include "tests/kernels/test_device.h"

namespace qwenserve {

// Engines on the device that a test is linked with (test_device.h), of which there is one.

inline absl::Status CheckTestDevice() {
  return MakeTestDevice(TestDeviceNames().front(), 1).status();
}

inline bool RanksMeetThroughTheHost() {
  return !(*MakeTestDevice(TestDeviceNames().front(), 1))->needs_device_group();
}

// A real GPU as a user would ask for it; an emulated one stands in for the CPU.
inline EngineOptions OnTestDevice(EngineOptions options, int variant) {
  if (TestDeviceNames().front() == "cuda") {
    options.device = "cuda";
    return options;
  }
  options.wrap_backend = [variant](std::unique_ptr<Backend>) {
    return *MakeTestDevice(TestDeviceNames().front(), variant);
  };
  return options;
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_RUNTIME_DEVICE_ENGINE_H_
