#include "kernels/cuda/gpu_backend.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/comm/nccl_communicator.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {
namespace {

// A step's descriptor is some hundred KiB at most.
constexpr size_t kCopyPartBytes = size_t{1} << 20;

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

GpuBackend::GpuBackend(std::unique_ptr<GpuDevice> device, const GpuKernels& kernels,
                       const GpuBackendOptions& options)
    : device_(std::move(device)),
      options_(options),
      comm_kernels_(kernels.comm),
      native_stream_(device_->native_stream(GpuStream::kCompute)),
      copies_(*device_, kCopyPartBytes, options.timeout),
      graphs_(*device_, options.max_graphs, options.warn),
      elementwise_(*device_, kernels.elementwise),
      linear_(*device_, kernels.gemm, device_->properties().num_sms, options.upload),
      sampler_(*device_, kernels.sampling) {}

absl::StatusOr<std::unique_ptr<GpuBackend>> GpuBackend::Create(std::unique_ptr<GpuDevice> device,
                                                               const GpuKernels& kernels,
                                                               const GpuBackendOptions& options) {
  std::unique_ptr<GpuBackend> backend(new GpuBackend(std::move(device), kernels, options));
  if (absl::Status status = backend->copies_.Init(); !status.ok()) return status;
  auto attention = GpuAttention::Create(*backend->device_, kernels.attention, options.attention);
  if (!attention.ok()) return attention.status();
  backend->attention_ = *std::move(attention);
  if (absl::Status status = backend->StartCublasLt(); !status.ok()) return status;
  return backend;
}

absl::Status GpuBackend::StartCublasLt() {
  if (!options_.cublaslt.has_value()) return absl::OkStatus();
  CublasLtOptions options;
  options.unpack = [this](const LinearWeight& weight, void* out) { linear_.Unpack(weight, out); };
  options.choices_file = options_.choices_file;
  options.warn = options_.warn;
  options.timeout = options_.timeout;
  auto fast = CublasLtLinear::Create(*device_, *options_.cublaslt, std::move(options));
  if (!fast.ok()) return fast.status();
  fast_ = *std::move(fast);
  return absl::OkStatus();
}

GpuBackend::~GpuBackend() {
  // What is under way uses memory that goes now. A device that failed is not waited for.
  if (error_.ok()) device_->Synchronize(options_.timeout).IgnoreError();
  ReleaseMarks(std::numeric_limits<uint64_t>::max());
}

absl::Status GpuBackend::Keep(absl::Status status) {
  if (absl::IsDeadlineExceeded(status)) {
    status = absl::UnavailableError(
        absl::StrCat("the GPU did not answer within ", absl::FormatDuration(options_.timeout)));
  }
  error_.Update(status);
  return error_;
}

std::string GpuBackend::description() const {
  const GpuProperties& gpu = device_->properties();
  return absl::StrCat(gpu.name, ", sm_", gpu.sm);
}

// --- Memory -------------------------------------------------------------------------------------

absl::Status GpuBackend::SupportsKv(KvFormat format, const HeadLayout& heads) const {
  return attention_->SupportsKv(format, heads);
}

absl::StatusOr<Buffer> GpuBackend::Allocate(size_t bytes) {
  QS_CHECK(!graphs_.recording());
  return AllocateGpuBuffer(*device_, bytes);
}

std::optional<DeviceMemory> GpuBackend::memory() const {
  const GpuMemory memory = device_->memory();
  return DeviceMemory{memory.free, memory.total};
}

void GpuBackend::CopyToDevice(const void* host, size_t bytes, void* device) {
  QS_CHECK(!graphs_.recording());
  if (error_.ok()) Keep(copies_.ToDevice(host, bytes, device)).IgnoreError();
}

void GpuBackend::CopyToHost(const void* device, size_t bytes, void* host) {
  QS_CHECK(!graphs_.recording());
  if (error_.ok()) Keep(copies_.ToHost(device, bytes, host)).IgnoreError();
}

absl::StatusOr<LinearWeight> GpuBackend::PackLinear(absl::Span<const RowBlock> blocks,
                                                    int64_t in_features) {
  graphs_.Clear();  // they name workspaces, which packing may replace by larger ones
  absl::StatusOr<LinearWeight> weight = linear_.PackLinear(blocks, in_features);
  if (weight.ok() && fast_ != nullptr) fast_->Reserve(*weight);
  return weight;
}

absl::StatusOr<LinearWeight> GpuBackend::PackQuantized(const QuantizedShape& shape,
                                                       const QuantizedRowSource& rows) {
  graphs_.Clear();
  absl::StatusOr<LinearWeight> weight = linear_.PackQuantized(shape, rows);
  if (weight.ok() && fast_ != nullptr) fast_->Reserve(*weight);
  return weight;
}

size_t GpuBackend::KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const {
  return attention_->KvBytesPerBlock(heads, format);
}

// --- Steps --------------------------------------------------------------------------------------

int64_t GpuPaddedRows(int64_t rows) {
  if (rows <= 2) return rows;
  if (rows <= 4) return 4;
  if (rows <= 64) return RoundUp(rows, 8);
  return rows <= 256 ? RoundUp(rows, 16) : RoundUp(rows, 64);
}

int64_t GpuBackend::PaddedRows(int64_t rows) const { return GpuPaddedRows(rows); }

absl::Status GpuBackend::Replay(uint64_t key, absl::FunctionRef<absl::Status()> issue) {
  return graphs_.Run(key, issue);
}

void GpuBackend::ReleaseMarks(uint64_t up_to) {
  while (!marks_.empty() && marks_.front().mark <= up_to) {
    device_->Release(marks_.front().event);
    marks_.pop_front();
  }
}

absl::Status GpuBackend::Sync() {
  if (!error_.ok()) return error_;
  const absl::Status status = Keep(device_->Synchronize(options_.timeout));
  ReleaseMarks(last_mark_);
  linear_.ReleaseStaging();
  return status.ok() ? Keep(sampler_.Deliver()) : status;
}

uint64_t GpuBackend::Mark() {
  marks_.push_back({++last_mark_, device_->Record(GpuStream::kCompute)});
  return last_mark_;
}

absl::Status GpuBackend::Wait(uint64_t mark) {
  if (!error_.ok()) return error_;
  for (const MarkedEvent& marked : marks_) {
    if (marked.mark != mark) continue;
    if (absl::Status status = Keep(device_->Wait(marked.event, options_.timeout)); !status.ok()) {
      return status;
    }
    ReleaseMarks(mark);
    return Keep(sampler_.Deliver());
  }
  // A wait for a later mark, or for everything, has come before.
  QS_CHECK(mark <= last_mark_);
  return Keep(device_->Check());
}

// --- Ranks --------------------------------------------------------------------------------------

absl::StatusOr<std::string> GpuBackend::NewDeviceGroup(const std::string& library) {
  return NewNcclGroup(library);
}

absl::StatusOr<std::unique_ptr<Communicator>> GpuBackend::JoinDeviceGroup(
    const DeviceGroup& group) {
  return JoinNcclGroup(*device_, comm_kernels_, group);
}

// --- Ops ----------------------------------------------------------------------------------------

void GpuBackend::TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) {
  elementwise_.TakeDrawn(drawn, rows, ids);
}

void GpuBackend::Embed(const int32_t* ids, int64_t rows, const LinearWeight& table,
                       int64_t first_id, float* out) {
  linear_.Embed(ids, rows, table, first_id, out);
}

void GpuBackend::RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight,
                         float epsilon, void* out) {
  elementwise_.AddRmsNorm(x, rows, width, nullptr, weight, epsilon, out);
}

void GpuBackend::AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual,
                            const float* weight, float epsilon, void* out) {
  elementwise_.AddRmsNorm(x, rows, width, residual, weight, epsilon, out);
}

void GpuBackend::Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
                        float* out) {
  const auto own = [&] { linear_.Linear(x, rows, weight, bias, out); };
  if (fast_ == nullptr) return own();
  fast_->Multiply({x, rows, &weight, bias, out}, !graphs_.recording(), own, nullptr);
}

void GpuBackend::LinearSwiGlu(const void* x, int64_t rows, const LinearWeight& gate_up,
                              float* scratch, void* out) {
  const auto own = [&] { linear_.LinearSwiGlu(x, rows, gate_up, scratch, out); };
  if (fast_ == nullptr) return own();
  fast_->Multiply({x, rows, &gate_up, nullptr, scratch}, !graphs_.recording(), own,
                  [&] { SiluMul(scratch, rows, gate_up.out_features / 2, out); });
}

void GpuBackend::NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads,
                                 const float* q_norm, const float* k_norm, float epsilon,
                                 absl::Span<const RopeTable> rope, float* qkv, const KvLayer& kv) {
  attention_->NormRopeStoreKv(batch, heads, q_norm, k_norm, epsilon, rope, qkv, kv);
}

void GpuBackend::PagedAttention(const AttentionBatch& batch, const HeadLayout& heads,
                                const float* qkv, const KvLayer& kv, void* out) {
  attention_->PagedAttention(batch, heads, qkv, kv, out);
}

void GpuBackend::SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) {
  elementwise_.SiluMul(gate_up, rows, width, out);
}

void GpuBackend::GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows,
                            void* out) {
  elementwise_.GatherRows(x, width, rows, num_rows, out);
}

void GpuBackend::Sample(float* logits, int64_t stride, int64_t vocab_size,
                        absl::Span<const SampleRow> rows, int32_t* drawn, SampledToken* tokens) {
  QS_CHECK(!graphs_.recording());
  sampler_.Sample(logits, stride, vocab_size, rows, drawn, tokens);
}

}  // namespace qwenserve
