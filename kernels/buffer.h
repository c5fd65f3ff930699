#ifndef QWENSERVE_KERNELS_BUFFER_H_
#define QWENSERVE_KERNELS_BUFFER_H_

#include <cstddef>
#include <functional>
#include <utility>

namespace qwenserve {

// Memory of one device, owned. Made by Backend::Allocate, which also says how to give it back.
// Move-only; must not outlive the backend that made it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, size_t bytes, std::function<void(void*)> release)
      : data_(data), bytes_(bytes), release_(std::move(release)) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) release_(data_);
  }

  // A device pointer: dereferenced by the host only where the backend is a host backend.
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }
  bool empty() const { return data_ == nullptr; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  std::function<void(void*)> release_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_BUFFER_H_
