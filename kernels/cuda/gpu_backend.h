#ifndef QWENSERVE_KERNELS_CUDA_GPU_BACKEND_H_
#define QWENSERVE_KERNELS_CUDA_GPU_BACKEND_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "kernels/cuda/attention/gpu_attention.h"
#include "kernels/cuda/comm/comm_kernels.h"
#include "kernels/cuda/cublaslt/cublaslt_linear.h"
#include "kernels/cuda/elementwise/gpu_elementwise.h"
#include "kernels/cuda/gemm/gpu_linear.h"
#include "kernels/cuda/gpu_kernels.h"
#include "kernels/cuda/graph_cache.h"
#include "kernels/cuda/runtime/gpu_device.h"
#include "kernels/cuda/runtime/upload_ring.h"
#include "kernels/cuda/sample/gpu_sampler.h"
#include "kernels/cuda/staged_copies.h"

namespace qwenserve {

// GpuBackend::PaddedRows.
int64_t GpuPaddedRows(int64_t rows);

struct GpuBackendOptions {
  // What decides the bits of results, see kernel_table.
  std::string table_name;
  // A wait for the device that takes longer is an error.
  absl::Duration timeout = absl::Seconds(120);
  UploadOptions upload;
  GpuAttentionOptions attention;
  // Steps that are remembered as graphs: those of decoding differ in PaddedRows alone.
  size_t max_graphs = 128;
  // Told, once, what makes steps slower than they could be; null: nobody.
  std::function<void(absl::string_view)> warn = nullptr;
  // With it products of many rows may be done by cuBLASLt, and the backend is not invariant().
  std::optional<CublasLtApi> cublaslt = std::nullopt;
  std::string choices_file;  // see ProductChoices
};

// A Backend over a GPU or its emulation. Activations are bf16. All ops go to GpuStream::kCompute
// and return at once.
//
// Errors: the first one of the device or of memory that an op needs stays, and is what Sync and
// Wait return from then on. UNAVAILABLE where the device failed or did not answer in time.
class GpuBackend final : public Backend {
 public:
  // RESOURCE_EXHAUSTED without memory for workspaces.
  static absl::StatusOr<std::unique_ptr<GpuBackend>> Create(std::unique_ptr<GpuDevice> device,
                                                            const GpuKernels& kernels,
                                                            const GpuBackendOptions& options);
  ~GpuBackend() override;

  // The same for all formats: the order of sums is the source's, but for the order inside an mma
  // instruction and the last bits of ex2, which are the GPU's. "cuda-1-sm90-exact": the
  // version of the order (to be raised with any change of bits), the compute capability.
  std::string kernel_table(WeightFormat weights) const override { return options_.table_name; }
  std::string description() const override;
  bool invariant() const override { return fast_ == nullptr; }
  DType activation_type() const override { return DType::kBf16; }
  absl::Status SupportsKv(KvFormat format, const HeadLayout& heads) const override;

  absl::StatusOr<Buffer> Allocate(size_t bytes) override;
  std::optional<DeviceMemory> memory() const override;
  void CopyToDevice(const void* host, size_t bytes, void* device) override;
  void CopyToHost(const void* device, size_t bytes, void* host) override;
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks,
                                          int64_t in_features) override;
  absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape& shape,
                                             const QuantizedRowSource& rows) override;
  size_t KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const override;

  // 1, 2 and 4, multiples of 8 up to 64 (products take tokens by 8), of 16 up to 256 and of 64
  // beyond: less than a fifth is computed in vain from 64 on, and up to 256 there are 23 shapes.
  int64_t PaddedRows(int64_t rows) const override;
  absl::Status Replay(uint64_t key, absl::FunctionRef<absl::Status()> issue) override;
  void ForgetReplays() override { graphs_.Clear(); }
  // Also gives back what packing weights took besides them.
  absl::Status Sync() override;
  uint64_t Mark() override;
  absl::Status Wait(uint64_t mark) override;
  void* native_stream() override { return native_stream_; }

  bool needs_device_group() const override { return native_stream_ != nullptr; }
  absl::StatusOr<std::string> NewDeviceGroup(const std::string& library) override;
  absl::StatusOr<std::unique_ptr<Communicator>> JoinDeviceGroup(const DeviceGroup& group) override;

  bool reads_last_id() const override { return true; }

  void TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) override;
  void Embed(const int32_t* ids, int64_t rows, const LinearWeight& table, int64_t first_id,
             float* out) override;
  void RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight, float epsilon,
               void* out) override;
  void AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual, const float* weight,
                  float epsilon, void* out) override;
  void Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
              float* out) override;
  void LinearSwiGlu(const void* x, int64_t rows, const LinearWeight& gate_up, float* scratch,
                    void* out) override;
  void NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads, const float* q_norm,
                       const float* k_norm, float epsilon, absl::Span<const RopeTable> rope,
                       float* qkv, const KvLayer& kv) override;
  void PagedAttention(const AttentionBatch& batch, const HeadLayout& heads, const float* qkv,
                      const KvLayer& kv, void* out) override;
  void SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) override;
  void GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows,
                  void* out) override;
  void Sample(float* logits, int64_t stride, int64_t vocab_size, absl::Span<const SampleRow> rows,
              int32_t* drawn, SampledToken* tokens) override;

 private:
  struct MarkedEvent {
    uint64_t mark = 0;
    GpuEvent event = 0;
  };

  GpuBackend(std::unique_ptr<GpuDevice> device, const GpuKernels& kernels,
             const GpuBackendOptions& options);
  absl::Status StartCublasLt();
  // Keeps the first error and returns it.
  absl::Status Keep(absl::Status status);
  void ReleaseMarks(uint64_t up_to);

  const std::unique_ptr<GpuDevice> device_;  // goes last
  const GpuBackendOptions options_;
  const CommKernels comm_kernels_;
  void* const native_stream_;  // null in the emulation, whose memory is the host's
  StagedCopies copies_;
  GraphCache graphs_;
  GpuElementwise elementwise_;
  GpuLinear linear_;
  std::unique_ptr<CublasLtLinear> fast_;  // null: all products by linear_
  std::unique_ptr<GpuAttention> attention_;
  GpuSampler sampler_;
  std::deque<MarkedEvent> marks_;  // that nobody has waited for
  uint64_t last_mark_ = 0;
  absl::Status error_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GPU_BACKEND_H_
