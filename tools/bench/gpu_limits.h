#ifndef QWENSERVE_TOOLS_BENCH_GPU_LIMITS_H_
#define QWENSERVE_TOOLS_BENCH_GPU_LIMITS_H_

#include <vector>

#include "absl/status/statusor.h"

namespace qwenserve {

// What a GPU's memory gives: bytes per second, read and written ones counted, of passes of a copy
// kernel over 512 MiB. What products of one row, which only read, are measured against. Errors as
// of MakeCudaDevice.
absl::StatusOr<std::vector<double>> GpuCopyPasses(int device);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_GPU_LIMITS_H_
