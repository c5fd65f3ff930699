#ifndef QWENSERVE_KERNELS_CPU_HOST_MEMORY_H_
#define QWENSERVE_KERNELS_CPU_HOST_MEMORY_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "kernels/buffer.h"

namespace qwenserve {

// Zeroed memory, aligned to 64 bytes. From 64 KiB on it lies in huge pages of 2 MiB where the
// kernel has them, which are worth 20-30 % when weights are streamed; pieces share them, since each
// rounded up would waste a quarter of the memory of a small model. Such memory is not touched here,
// so that it comes to lie near the thread that first writes it. Thread-safe. RESOURCE_EXHAUSTED
// with the size when there is no room.
absl::StatusOr<Buffer> AllocateHostMemory(size_t bytes);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_HOST_MEMORY_H_
