#ifndef QWENSERVE_KERNELS_CPU_HOST_MEMORY_H_
#define QWENSERVE_KERNELS_CPU_HOST_MEMORY_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "kernels/buffer.h"

namespace qwenserve {

// Zeroed memory, aligned to 64 bytes. From 2 MiB on it is aligned to 2 MiB and asks the kernel for
// huge pages, which are worth 20-30 % when weights are streamed; such memory is not touched here,
// so that it comes to lie near the thread that first writes it.
// RESOURCE_EXHAUSTED with the size when there is no room.
absl::StatusOr<Buffer> AllocateHostMemory(size_t bytes);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_HOST_MEMORY_H_
