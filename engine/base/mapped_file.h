#ifndef QWENSERVE_ENGINE_BASE_MAPPED_FILE_H_
#define QWENSERVE_ENGINE_BASE_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace qwenserve {

// A whole regular file, mapped read-only. Immutable; may be read from any thread. The file must not
// be truncated while it is mapped: the kernel then ends the process that touches the lost pages.
class MappedFile {
 public:
  // NOT_FOUND or INVALID_ARGUMENT (not a regular file) naming the path and the system's reason.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }
  // Open for reading, as long as the mapping.
  int fd() const { return fd_; }
  absl::Span<const uint8_t> bytes() const { return {data_, static_cast<size_t>(size_)}; }

  // OUT_OF_RANGE naming the path and all numbers unless [offset, offset + length) lies inside.
  absl::StatusOr<absl::Span<const uint8_t>> Slice(int64_t offset, int64_t length) const;

  // Unmaps the pages that hold this range from memory; touching them again reads the file again.
  void ReleasePages(const void* data, int64_t length) const;

 private:
  MappedFile(std::string path, int fd, const uint8_t* data, int64_t size)
      : path_(std::move(path)), fd_(fd), data_(data), size_(size) {}

  std::string path_;
  int fd_;
  const uint8_t* data_;  // null when the file is empty
  int64_t size_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_BASE_MAPPED_FILE_H_
