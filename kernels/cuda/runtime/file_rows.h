#ifndef QWENSERVE_KERNELS_CUDA_RUNTIME_FILE_ROWS_H_
#define QWENSERVE_KERNELS_CUDA_RUNTIME_FILE_ROWS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// Rows begin .. end - 1 of all blocks, one below the other, the first in_features elements of each,
// to `out` without gaps. Blocks that tell where they lie in a file are read from there, not through
// the mapping: many page faults cost more than the copy. Rows that follow each other in the file
// are read at once. May be called by several threads.
//
// DATA_LOSS or UNAVAILABLE, with the place in the file, where it ends early or cannot be read.
absl::Status ReadBlockRows(absl::Span<const RowBlock> blocks, int64_t in_features, int64_t begin,
                           int64_t end, void* out);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_RUNTIME_FILE_ROWS_H_
