#ifndef QWENSERVE_TESTS_KERNELS_DEVICE_ARRAY_H_
#define QWENSERVE_TESTS_KERNELS_DEVICE_ARRAY_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"

namespace qwenserve {

// An array in the memory of a device.
template <typename T>
class DeviceArray {
 public:
  // Zeros.
  DeviceArray(Backend& backend, int64_t count) : backend_(&backend), count_(count) {
    absl::StatusOr<Buffer> buffer =
        backend.Allocate(std::max<size_t>(1, static_cast<size_t>(count)) * sizeof(T));
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    buffer_ = *std::move(buffer);
  }
  DeviceArray(Backend& backend, const std::vector<T>& values)
      : DeviceArray(backend, static_cast<int64_t>(values.size())) {
    Upload(values);
  }

  void Upload(const std::vector<T>& values) {
    EXPECT_LE(static_cast<int64_t>(values.size()), count_);
    backend_->CopyToDevice(values.data(), values.size() * sizeof(T), buffer_.data());
  }
  std::vector<T> Download() const {
    std::vector<T> values(static_cast<size_t>(count_));
    backend_->CopyToHost(buffer_.data(), values.size() * sizeof(T), values.data());
    return values;
  }

  T* data() const { return buffer_.as<T>(); }
  int64_t count() const { return count_; }

 private:
  Backend* backend_;
  int64_t count_;
  Buffer buffer_;
};

// What feeds products, in the type that the device has for it: rounded when it is uploaded.
class DeviceActivations {
 public:
  DeviceActivations(Backend& backend, int64_t count)
      : bf16_(backend.activation_type() == DType::kBf16),
        floats_(backend, bf16_ ? 0 : count),
        halves_(backend, bf16_ ? count : 0) {}
  DeviceActivations(Backend& backend, const std::vector<float>& values)
      : DeviceActivations(backend, static_cast<int64_t>(values.size())) {
    if (!bf16_) {
      floats_.Upload(values);
      return;
    }
    std::vector<uint16_t> rounded;
    for (float value : values) rounded.push_back(FloatToBf16(value));
    halves_.Upload(rounded);
  }

  std::vector<float> Download() const {
    if (!bf16_) return floats_.Download();
    std::vector<float> values;
    for (uint16_t bits : halves_.Download()) values.push_back(Bf16ToFloat(bits));
    return values;
  }
  void* data() const {
    return bf16_ ? static_cast<void*>(halves_.data()) : static_cast<void*>(floats_.data());
  }

 private:
  bool bf16_;
  DeviceArray<float> floats_;
  DeviceArray<uint16_t> halves_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_DEVICE_ARRAY_H_
