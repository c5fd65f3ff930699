#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {

absl::StatusOr<Buffer> AllocateGpuBuffer(GpuDevice& device, size_t bytes) {
  absl::StatusOr<void*> memory = device.Allocate(bytes);
  if (!memory.ok()) return memory.status();
  device.Fill(*memory, 0, bytes, GpuStream::kCompute);
  return Buffer(*memory, bytes, [&device](void* data) { device.Free(data); });
}

absl::StatusOr<Buffer> AllocatePinnedBuffer(GpuDevice& device, size_t bytes) {
  absl::StatusOr<void*> memory = device.AllocatePinned(bytes);
  if (!memory.ok()) return memory.status();
  return Buffer(*memory, bytes, [&device](void* data) { device.FreePinned(data); });
}

}  // namespace qwenserve
