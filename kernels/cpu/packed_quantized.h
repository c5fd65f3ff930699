#ifndef QWENSERVE_KERNELS_CPU_PACKED_QUANTIZED_H_
#define QWENSERVE_KERNELS_CPU_PACKED_QUANTIZED_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// The packed layouts of quantised weights (QuantLinearArgs in kernel_table.h): making one, and
// reading a row back.

size_t QuantizedDataBytes(const QuantizedShape& shape);
// Elements of the scales, and of the zeros where there are any.
int64_t QuantizedScaleCount(const QuantizedShape& shape);

// Fills panels begin..end of `weight`, whose buffers have the sizes above.
absl::Status PackQuantizedPanels(const QuantizedShape& shape, const QuantizedRowSource& rows,
                                 int64_t begin, int64_t end, const LinearWeight& weight);

// out[0..in_features) = scale * (code - zero) of row `row`, each product rounded once.
void ReadQuantizedRow(const LinearWeight& weight, int64_t row, float* out);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_PACKED_QUANTIZED_H_
