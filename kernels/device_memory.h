#ifndef QWENSERVE_KERNELS_DEVICE_MEMORY_H_
#define QWENSERVE_KERNELS_DEVICE_MEMORY_H_

#include <cstdint>

#include "absl/types/span.h"
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

// A weight as packed, without its contents.
struct PackedShape {
  WeightFormat format = WeightFormat::kF32;
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t packed_inputs = 0;  // quantised formats
  bool reordered = false;     // QuantizedShape::input_order
};

// What decides how much a backend takes beside what it is asked for.
struct WorkspaceOptions {
  bool fast = false;                            // CudaBackendOptions::exact is false
  int multiprocessors = 132;                    // of an H100 or H200; smaller GPUs need less
  int64_t attention_bytes = int64_t{32} << 20;  // GpuAttentionOptions
};

// Device memory that a backend takes for itself when it is made and these weights are packed.
int64_t WorkspaceBytes(DeviceKind kind, absl::Span<const PackedShape> weights,
                       const WorkspaceOptions& options);

// Backend::PaddedRows.
int64_t PaddedRows(DeviceKind kind, int64_t rows);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_DEVICE_MEMORY_H_
