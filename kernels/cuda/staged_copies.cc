#include "kernels/cuda/staged_copies.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/check.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {

StagedCopies::StagedCopies(GpuDevice& device, size_t part_bytes, absl::Duration timeout)
    : device_(device), part_bytes_(part_bytes), timeout_(timeout) {
  QS_CHECK(part_bytes > 0);
}

StagedCopies::~StagedCopies() {
  for (const Part& part : parts_) {
    if (part.copied != 0) device_.Release(part.copied);
  }
}

absl::Status StagedCopies::Init() {
  absl::StatusOr<Buffer> ring = AllocatePinnedBuffer(device_, kParts * part_bytes_);
  if (!ring.ok()) return ring.status();
  ring_ = *std::move(ring);
  for (size_t i = 0; i < kParts; ++i) parts_[i].data = ring_.as<char>() + i * part_bytes_;
  return absl::OkStatus();
}

absl::Status StagedCopies::WaitAndRelease(GpuEvent event) {
  const absl::Status status = device_.Wait(event, timeout_);
  device_.Release(event);
  return status;
}

absl::Status StagedCopies::NextPart() {
  parts_[current_].copied = device_.Record(GpuStream::kCompute);
  current_ = (current_ + 1) % kParts;
  Part& next = parts_[current_];
  if (next.copied != 0) {
    const absl::Status status = WaitAndRelease(std::exchange(next.copied, 0));
    if (!status.ok()) return status;
  }
  next.used = 0;
  return absl::OkStatus();
}

absl::Status StagedCopies::ToDevice(const void* host, size_t bytes, void* device) {
  const char* from = static_cast<const char*>(host);
  char* to = static_cast<char*>(device);
  while (bytes > 0) {
    if (parts_[current_].used == part_bytes_) {
      const absl::Status status = NextPart();
      if (!status.ok()) return status;
    }
    Part& part = parts_[current_];
    const size_t piece = std::min(bytes, part_bytes_ - part.used);
    std::memcpy(part.data + part.used, from, piece);
    device_.CopyToDevice(to, part.data + part.used, piece, GpuStream::kCompute);
    // The next copy begins on a line of its own.
    constexpr size_t kLine = 64;
    part.used = std::min(part_bytes_, part.used + (piece + kLine - 1) / kLine * kLine);
    from += piece;
    to += piece;
    bytes -= piece;
  }
  return absl::OkStatus();
}

absl::Status StagedCopies::ToHost(const void* device, size_t bytes, void* host) {
  const char* from = static_cast<const char*>(device);
  char* to = static_cast<char*>(host);
  while (bytes > 0) {
    // A part of its own: what the current one holds may still be on its way.
    absl::Status status = NextPart();
    if (!status.ok()) return status;
    Part& part = parts_[current_];
    const size_t piece = std::min(bytes, part_bytes_);
    device_.CopyToHost(part.data, from, piece, GpuStream::kCompute);
    status = WaitAndRelease(device_.Record(GpuStream::kCompute));
    if (!status.ok()) return status;
    std::memcpy(to, part.data, piece);
    from += piece;
    to += piece;
    bytes -= piece;
  }
  return absl::OkStatus();
}

}  // namespace qwenserve
