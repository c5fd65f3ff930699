#ifndef QWENSERVE_KERNELS_DEVICE_MEMORY_H_
#define QWENSERVE_KERNELS_DEVICE_MEMORY_H_

#include <cstdint>

#include "kernels/attention_batch.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// What a backend of some kind will hold, without one: to plan for machines that are not at hand.
// Tests hold these numbers against what the backends allocate.

enum class DeviceKind { kCpu, kCuda };

// LinearWeight::bytes() of PackLinear's result for blocks of this type.
int64_t LinearBytes(DeviceKind kind, DType dtype, int64_t out_features, int64_t in_features);

// Likewise of PackQuantized's.
int64_t QuantizedBytes(DeviceKind kind, const QuantizedShape& shape);

// Backend::KvBytesPerBlock.
int64_t KvBytesPerBlock(DeviceKind kind, const HeadLayout& heads, KvFormat format);

// Backend::activation_type.
DType ActivationType(DeviceKind kind);

// Device memory that a backend takes for itself, for steps of at most so many rows and rows of
// logits.
int64_t WorkspaceBytes(DeviceKind kind, const HeadLayout& heads, int64_t max_rows,
                       int64_t max_logit_rows);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_DEVICE_MEMORY_H_
