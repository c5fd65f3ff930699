#include "engine/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // A pipe would be waited for until somebody writes to it.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be opened: ", std::strerror(errno)));
  }
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  void* data = nullptr;
  if (info.st_size > 0) {
    data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
  }
  const int error = errno;
  if (data == MAP_FAILED) {
    close(fd);
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": ", info.st_size, " bytes cannot be mapped: ", std::strerror(error)));
  }
  return std::unique_ptr<MappedFile>(
      new MappedFile(path, fd, static_cast<const uint8_t*>(data), info.st_size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_));
  close(fd_);
}

absl::StatusOr<absl::Span<const uint8_t>> MappedFile::Slice(int64_t offset, int64_t length) const {
  if (offset < 0 || length < 0 || offset > size_ || length > size_ - offset) {
    return absl::OutOfRangeError(absl::StrCat(path_, ": ", length, " bytes at offset ", offset,
                                              " are not inside the file of ", size_, " bytes"));
  }
  return bytes().subspan(static_cast<size_t>(offset), static_cast<size_t>(length));
}

void MappedFile::ReleasePages(const void* data, int64_t length) const {
  if (length <= 0) return;
  const auto* begin = static_cast<const uint8_t*>(data);
  QS_CHECK(begin >= data_ && length <= size_ - (begin - data_));
  const int64_t page = sysconf(_SC_PAGESIZE);
  // Outwards to whole pages: the mapping is read-only, so a neighbour's page is only read again.
  const int64_t first = (begin - data_) / page * page;
  const int64_t last = std::min(size_, (begin - data_) + length);
  // Failure costs memory, not correctness.
  (void)madvise(const_cast<uint8_t*>(data_) + first, static_cast<size_t>(last - first),
                MADV_DONTNEED);
}

}  // namespace qwenserve
