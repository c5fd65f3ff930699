#ifndef QWENSERVE_TESTS_ENGINE_RUNTIME_LIMITED_BACKEND_H_
#define QWENSERVE_TESTS_ENGINE_RUNTIME_LIMITED_BACKEND_H_

#include <memory>
#include <utility>

#include "tests/kernels/forwarding_backend.h"

namespace qwenserve {

// Another backend as a device with memory of its own, of `total` bytes, of which `taken` counts all
// that was ever asked for.
class LimitedBackend final : public ForwardingBackend {
 public:
  LimitedBackend(std::unique_ptr<Backend> device, size_t total, size_t* taken)
      : ForwardingBackend(std::move(device)), total_(total), taken_(taken) {}

  std::optional<DeviceMemory> memory() const override {
    return DeviceMemory{total_ - *taken_, total_};
  }
  absl::StatusOr<Buffer> Allocate(size_t bytes) override {
    *taken_ += bytes;
    return ForwardingBackend::Allocate(bytes);
  }
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks,
                                          int64_t in_features) override {
    return Count(ForwardingBackend::PackLinear(blocks, in_features));
  }
  absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape& shape,
                                             const QuantizedRowSource& rows) override {
    return Count(ForwardingBackend::PackQuantized(shape, rows));
  }

 private:
  absl::StatusOr<LinearWeight> Count(absl::StatusOr<LinearWeight> weight) {
    if (weight.ok()) *taken_ += weight->bytes();
    return weight;
  }

  const size_t total_;
  size_t* const taken_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_RUNTIME_LIMITED_BACKEND_H_
