#ifndef QWENSERVE_KERNELS_WRAPPING_BACKEND_H_
#define QWENSERVE_KERNELS_WRAPPING_BACKEND_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "kernels/backend.h"

namespace qwenserve {

// Has the memory and the weights of another backend, which it owns: the base of those that change
// how, or whether, ops run. Threads: as the other one's.
class WrappingBackend : public Backend {
 public:
  std::string kernel_table(WeightFormat weights) const override {
    return device_->kernel_table(weights);
  }
  absl::StatusOr<Buffer> Allocate(size_t bytes) override { return device_->Allocate(bytes); }
  void CopyToDevice(const void* host, size_t bytes, void* device) override {
    device_->CopyToDevice(host, bytes, device);
  }
  void CopyToHost(const void* device, size_t bytes, void* host) override {
    device_->CopyToHost(device, bytes, host);
  }
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks,
                                          int64_t in_features) override {
    return device_->PackLinear(blocks, in_features);
  }
  absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape& shape,
                                             const QuantizedRowSource& rows) override {
    return device_->PackQuantized(shape, rows);
  }
  size_t KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const override {
    return device_->KvBytesPerBlock(heads, format);
  }

 protected:
  explicit WrappingBackend(std::unique_ptr<Backend> device) : device_(std::move(device)) {}
  Backend& device() const { return *device_; }

 private:
  const std::unique_ptr<Backend> device_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_WRAPPING_BACKEND_H_
