#ifndef QWENSERVE_KERNELS_CPU_PACKED_WEIGHT_H_
#define QWENSERVE_KERNELS_CPU_PACKED_WEIGHT_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// The packed layout of kernel_table.h: making it and reading a row back.

int64_t NumPanels(int64_t out_features);
// bf16_pairs, here and below: bf16 is packed for dots of pairs (KernelTable::bf16_dot).
size_t PackedBytes(WeightFormat format, int64_t out_features, int64_t in_features, bool bf16_pairs);

// Fills panels begin..end of `packed` from the rows of all blocks.
void PackPanels(absl::Span<const RowBlock> blocks, int64_t in_features, int64_t begin, int64_t end,
                bool bf16_pairs, void* packed);

// out[0..in_features) = row `row` as floats.
void ReadPackedRow(const LinearWeight& weight, int64_t row, bool bf16_pairs, float* out);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_PACKED_WEIGHT_H_
