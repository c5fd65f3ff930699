#include "kernels/cuda/runtime/file_rows.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace qwenserve {
namespace {

absl::Status ReadAll(int fd, int64_t offset, size_t bytes, char* out) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t got = pread(fd, out + done, bytes - done,
                              static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::UnavailableError(absl::StrCat("reading ", bytes, " bytes at ", offset,
                                                 " of a checkpoint's file: ", strerror(errno)));
    }
    if (got == 0) {
      return absl::DataLossError(absl::StrCat(
          "a checkpoint's file ends at ", offset + static_cast<int64_t>(done), ", ", bytes,
          " bytes at ", offset, " were wanted: it has changed since it was opened"));
    }
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::Status ReadPart(const RowBlock& block, int64_t in_features, int64_t begin, int64_t rows,
                      char* out) {
  const auto element = static_cast<int64_t>(DTypeBytes(block.dtype));
  const int64_t stride = block.row_stride * element;
  const auto row_bytes = static_cast<size_t>(in_features * element);
  const bool dense = block.row_stride == in_features;
  const size_t read = dense ? row_bytes * static_cast<size_t>(rows) : row_bytes;
  for (int64_t row = begin; row < begin + rows; row += dense ? rows : 1, out += read) {
    if (block.fd < 0) {
      std::memcpy(out, static_cast<const char*>(block.data) + row * stride, read);
      continue;
    }
    const absl::Status status = ReadAll(block.fd, block.file_offset + row * stride, read, out);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadBlockRows(absl::Span<const RowBlock> blocks, int64_t in_features, int64_t begin,
                           int64_t end, void* out) {
  auto* to = static_cast<char*>(out);
  int64_t start = 0;  // of the block, in rows of all
  for (const RowBlock& block : blocks) {
    const int64_t from = std::max(begin, start);
    const int64_t until = std::min(end, start + block.rows);
    if (from < until) {
      const absl::Status status = ReadPart(block, in_features, from - start, until - from, to);
      if (!status.ok()) return status;
      to += static_cast<size_t>((until - from) * in_features) * DTypeBytes(block.dtype);
    }
    start += block.rows;
  }
  QS_CHECK(end <= start);
  return absl::OkStatus();
}

}  // namespace qwenserve
