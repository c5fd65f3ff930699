#ifndef QWENSERVE_KERNELS_CUDA_GEMM_GPU_LINEAR_H_
#define QWENSERVE_KERNELS_CUDA_GEMM_GPU_LINEAR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/gemm/gemm_kernels.h"
#include "kernels/cuda/gemm/linear_plan.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "kernels/cuda/runtime/upload_ring.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// Rows of x that are put into the weight's order at once.
inline constexpr int64_t kGatherRows = 512;
// Inputs have to be copied where a row of x does not start at 16 bytes.
inline constexpr int64_t kAlignedInputs = 8;

// The layout of a weight's buffers: FragmentFormat and sizes. kF32 has no fragments: floats,
// row-major.
FragmentFormat FragmentFormatOf(WeightFormat format);

// Device memory of a packed weight, in bytes, as LinearWeight::bytes() counts it.
size_t GpuWeightBytes(WeightFormat format, int64_t out_features, int64_t in_features);
size_t GpuWeightBytes(const QuantizedShape& shape);

// The matrix products of a GPU: packs weights into fragments, multiplies, embeds. Arguments are
// those of Backend; activations (void*) are bf16, aligned to 16 bytes. The order of every sum is
// README.md's; it depends on the weight alone.
//
// Ops are issued to GpuStream::kCompute and don't wait. One thread at a time. `device` must outlive
// it and the weights that it packs.
class GpuLinear {
 public:
  // num_sms: multiprocessors to plan for; no result depends on it. upload: how weights come to the
  // device; its buffers grow for what is not cut into smaller pieces.
  GpuLinear(GpuDevice& device, const GemmKernels& kernels, int num_sms,
            const UploadOptions& upload = {});

  // RESOURCE_EXHAUSTED without memory, else the error of the source or of the device. The data may
  // still be on its way when they return, in front of all that is issued to kCompute later.
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks, int64_t in_features);
  absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape& shape,
                                             const QuantizedRowSource& rows);
  // Gives back what packing takes besides the weights: pinned memory and a piece of the device's.
  // To be called when all weights are packed; packing more takes it again. Waits for the device.
  void ReleaseStaging();

  void Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
              float* out);
  // scratch is used only where gate and up don't start at a whole tile, or are floats.
  void LinearSwiGlu(const void* x, int64_t rows, const LinearWeight& gate_up, float* scratch,
                    void* out);
  void Embed(const int32_t* ids, int64_t rows, const LinearWeight& table, int64_t first_id,
             float* out);
  // out: bf16 [out_features, in_features], aligned to 16 bytes; each element is rounded once.
  void Unpack(const LinearWeight& weight, void* out);

 private:
  // Products with all of x_inputs inputs of x in order.
  void Multiply(const uint16_t* x, int64_t x_inputs, int64_t rows, const LinearWeight& weight,
                const float* bias, float* out, uint16_t* activated);
  // The same for any weight: x is put into the weight's order first, where that is another or rows
  // are not aligned, some rows at a time.
  void GatherAndMultiply(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
                         float* out, uint16_t* activated);
  void MultiplyF32(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
                   float* out);

  // Memory that products with this weight will need.
  absl::Status Reserve(const LinearWeight& weight);
  absl::Status Grow(Buffer* buffer, size_t bytes);
  // The ring and a piece of device memory, for pieces of `piece_bytes` at least.
  absl::Status PrepareStaging(size_t piece_bytes);
  // Rows of 16 or 8 bit elements at `from` (device) into the tiles from `first_row` on.
  void Repack(const LinearWeight& weight, const void* from, int64_t first_row, int64_t rows,
              int64_t inputs);
  absl::Status UploadRows(absl::Span<const RowBlock> blocks, const LinearWeight& weight,
                          size_t element_bytes);
  absl::Status UploadQuantized(const QuantizedShape& shape, const QuantizedRowSource& rows,
                               const LinearWeight& weight);
  // kCopy after what kCompute has been given, or the other way around.
  void Order(GpuStream before, GpuStream after);

  GpuDevice& device_;
  const GemmKernels kernels_;
  const int num_sms_;
  const UploadOptions upload_;

  std::unique_ptr<UploadRing> ring_;
  Buffer staging_;

  Buffer partials_, arrivals_, gathered_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GEMM_GPU_LINEAR_H_
