#ifndef QWENSERVE_KERNELS_BACKEND_H_
#define QWENSERVE_KERNELS_BACKEND_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/attention_batch.h"
#include "kernels/buffer.h"
#include "kernels/communicator.h"
#include "kernels/dtype.h"
#include "kernels/linear_weight.h"
#include "kernels/sample_row.h"
#include "kernels/shard_sampler.h"

namespace qwenserve {

struct DeviceMemory {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
};

// The numbers of one device: the only interface through which the model computes.
//
// Ops are whole-batch, asynchronous and void; what goes wrong on the device comes back from Sync().
// Arguments are checked once per op (QS_CHECK: shapes are our own business, never a client's).
// Activations are row-major and float, but for those that feed products (void* below), which are of
// activation_type(). `rows` is always the first argument's leading dimension.
//
// Contract of every op: a row of the result depends only on that row's inputs and absolute
// position. The order of every sum is fixed by (op, shape, format) and is the same for one row and
// for many, for any number of threads and for any cut of a prefill. That is what makes a token
// reproducible on another replica. Not so where invariant() is false.
//
// One backend belongs to one rank and is used by one thread at a time.
class Backend {
 public:
  virtual ~Backend() = default;

  // What decides the bits of results besides the inputs: part of the numerics fingerprint. With
  // weights of some format an instruction set may have an order of its own, hence the argument; an
  // equal name promises equal bits on any machine.
  virtual std::string kernel_table(WeightFormat weights) const = 0;

  // The device for people, where there are several kinds: "NVIDIA H100 80GB HBM3, sm_90".
  virtual std::string description() const { return ""; }

  // False: the order of a sum may depend on the number of rows, so no fingerprint promises equal
  // tokens.
  virtual bool invariant() const { return true; }

  // kF32 or kBf16: what RmsNorm, AddRmsNorm, PagedAttention, SiluMul and LinearSwiGlu write, and
  // what Linear and GatherRows read.
  virtual DType activation_type() const { return DType::kF32; }

  // OK, or UNIMPLEMENTED, saying what there is instead.
  virtual absl::Status SupportsKv(KvFormat format, const HeadLayout& heads) const {
    return absl::OkStatus();
  }

  // --- Memory ---------------------------------------------------------------------------------

  // Aligned to 64 bytes, zeroed. RESOURCE_EXHAUSTED with the size when there is no room.
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes) = 0;
  // Of a device with memory of its own; nothing where that is the host's.
  virtual std::optional<DeviceMemory> memory() const { return std::nullopt; }
  virtual void CopyToDevice(const void* host, size_t bytes, void* device) = 0;
  // Implies Sync() for the bytes read.
  virtual void CopyToHost(const void* device, size_t bytes, void* host) = 0;

  // Packs the rows of all blocks, one below the other, into a weight [sum of rows, in_features].
  // All blocks have one dtype; fp16 stays fp16. Reads each source element once and row by row, each
  // thread its own part of the rows.
  virtual absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks,
                                                  int64_t in_features) = 0;

  // Packs a quantised matrix, asking `rows` for each row once, from several threads.
  // RESOURCE_EXHAUSTED without memory, else the error of `rows`.
  virtual absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape& shape,
                                                     const QuantizedRowSource& rows) = 0;

  // Bytes of one KV block (keys and values of kKvBlockSize tokens) of one layer.
  virtual size_t KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const = 0;

  // --- Steps ----------------------------------------------------------------------------------

  // How many rows a step of one row per sequence is filled up to, with rows at position -1, so that
  // few different shapes are ever seen. The same for equal arguments.
  virtual int64_t PaddedRows(int64_t rows) const { return rows; }

  // Runs the ops that `issue` issues. The backend may remember them under `key`, and from then on
  // repeat them instead of calling `issue`: for equal keys these must be the same ops with the same
  // arguments (pointers and numbers), over whatever the memory holds now. Only for ops that take no
  // data from the host. The error is that of `issue`.
  virtual absl::Status Replay(uint64_t key, absl::FunctionRef<absl::Status()> issue) {
    return issue();
  }

  // Forgets what Replay remembers: before something goes that remembered ops use, such as a
  // communicator.
  virtual void ForgetReplays() {}

  // Waits for all ops so far. The first device error since the last call; then the backend is dead.
  virtual absl::Status Sync() = 0;

  // A mark behind all ops so far, and the wait for it: as Sync, without what was issued later.
  virtual uint64_t Mark() { return 0; }
  virtual absl::Status Wait(uint64_t mark) { return Sync(); }

  // The queue in which ops run; null where they are done when they return.
  virtual void* native_stream() { return nullptr; }

  // --- Ranks ----------------------------------------------------------------------------------

  // Whether ranks meet through a group of devices, since the host can't reach their memory; the
  // functions below are for those only.
  virtual bool needs_device_group() const { return false; }
  // The identity of a new group, for DeviceGroup::id; that of `library` as there. Whoever makes it
  // lives until all ranks have joined. FAILED_PRECONDITION naming what is to be installed.
  virtual absl::StatusOr<std::string> NewDeviceGroup(const std::string& library) {
    return absl::UnimplementedError("this device has no collectives of its own");
  }
  // Returns when all ranks have joined. The communicator must not outlive the backend.
  // FAILED_PRECONDITION as above; UNAVAILABLE when not all ranks join in time.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> JoinDeviceGroup(const DeviceGroup& group) {
    return absl::UnimplementedError("this device has no collectives of its own");
  }

  // --- Ops ------------------------------------------------------------------------------------

  // ids[r] < 0 becomes drawn[-1 - ids[r]], or 0 where that is negative: what the step before drew
  // (see Sample). ids: device, [rows]; drawn: device.
  virtual void TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) = 0;

  // out[r] = row ids[r] - first_id of `table`, or zeros when that row is not in the table (it is
  // then on another rank). ids: device, [rows]; out: [rows, table.in_features].
  virtual void Embed(const int32_t* ids, int64_t rows, const LinearWeight& table, int64_t first_id,
                     float* out) = 0;

  // out = x / sqrt(mean(x^2) + epsilon) * weight. x, out: [rows, width]; weight: [width].
  virtual void RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight,
                       float epsilon, void* out) = 0;

  // residual += x; out = RmsNorm(residual). All [rows, width], apart from each other.
  virtual void AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual,
                          const float* weight, float epsilon, void* out) = 0;

  // out = x * weight^T + bias. x: [rows, in_features]; bias: [out_features] or null;
  // out: [rows, out_features]. The only matrix product. How x is rounded before it is multiplied is
  // the backend's own (kernel_table): on the CPU for a quantised weight to 8 bits in blocks of
  // kQuantBlock inputs, each with its own scale; on a GPU not further than activation_type().
  virtual void Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
                      float* out) = 0;

  // out = silu(x * gate^T) * (x * up^T), gate and up the upper and the lower half of gate_up's
  // rows. scratch: [rows, gate_up.out_features]; out: [rows, gate_up.out_features / 2].
  virtual void LinearSwiGlu(const void* x, int64_t rows, const LinearWeight& gate_up,
                            float* scratch, void* out) {
    Linear(x, rows, gate_up, nullptr, scratch);
    SiluMul(scratch, rows, gate_up.out_features / 2, out);
  }

  // For every row of qkv [num_rows, heads.qkv_width()] = [queries | keys | values]: normalises each
  // query and key head (q_norm, k_norm: [head_dim], null = off), rotates both by the row's rope
  // table (pairs (i, i + head_dim / 2)), scales the query by query_scales, writes the query back in
  // place and stores key and value in the cache at the row's position. Nothing is stored of a row
  // at position -1.
  virtual void NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads,
                               const float* q_norm, const float* k_norm, float epsilon,
                               absl::Span<const RopeTable> rope, float* qkv, const KvLayer& kv) = 0;

  // out[r] = softmax(q[r] K^T / sqrt(head_dim)) V over positions 0..positions[r] of its sequence.
  // Queries are read in place from qkv; out: [num_rows, heads.query_width()]. A row at position -1
  // gives zeros.
  virtual void PagedAttention(const AttentionBatch& batch, const HeadLayout& heads,
                              const float* qkv, const KvLayer& kv, void* out) = 0;

  // out = silu(gate) * up, gate_up: [rows, 2 * width] = [gate | up], out: [rows, width].
  virtual void SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) = 0;

  // out[i] = x[rows[i]]. x: [*, width]; rows: device, [num_rows]; out: [num_rows, width].
  virtual void GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows,
                          void* out) = 0;

  // Draws one id for each row of logits [rows.size(), stride]; ids >= vocab_size are padding and
  // never drawn. Overwrites the logits. What `rows` points to is read before Sample returns.
  // drawn: device, [rows.size()], the ids for TakeDrawn, or null. tokens: host, [rows.size()],
  // valid after Sync() or Wait() for a later mark. A row without usable logits gives id -1
  // (SampledToken says when); the others don't notice.
  virtual void Sample(float* logits, int64_t stride, int64_t vocab_size,
                      absl::Span<const SampleRow> rows, int32_t* drawn, SampledToken* tokens) = 0;

  // Whether Sample knows SampleRow::last_id. Otherwise rows whose draw depends on their context
  // must have all of it in context_ids, and a step with such rows can't be planned before the step
  // before is done.
  virtual bool reads_last_id() const { return false; }

  // For a vocabulary cut over ranks; null: this device has none, and whole rows are gathered.
  virtual ShardSampler* shard_sampler() { return nullptr; }
};

struct CpuBackendOptions {
  int num_threads = 1;  // of this rank, the calling thread included
  // Pins thread i to cpus[i]; empty = not pinned. Thread 0 is whichever thread calls the ops, and
  // is pinned when it first does.
  std::vector<int> cpus = {};
  // Or portable; avx2, avx512, avx512bf16, amx on x86-64; neon, neondot on 64 bit Arm. Never the
  // environment.
  std::string isa = "auto";
};

// INVALID_ARGUMENT for an isa that is unknown or that this machine does not have, and for options
// that contradict each other.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuBackendOptions& options);

// The instruction set that `isa` stands for on this machine, for logs and status; errors as above.
absl::StatusOr<std::string> CpuIsaName(const std::string& isa);

struct CudaBackendOptions {
  int device = 0;
  // exact: one order of every sum whatever the number of rows. fast: products of many rows by
  // cuBLASLt, chosen by time; such a backend is not invariant().
  bool exact = true;
  // fast: where choices are kept for the next start; empty: nowhere.
  std::string cache_dir = {};
  // A wait for the device that takes longer is an error.
  absl::Duration timeout = absl::Seconds(120);
  // Told, once, what makes steps slower than they could be; null: nobody.
  std::function<void(absl::string_view)> warn = nullptr;
};

// UNIMPLEMENTED in a build without CUDA; NOT_FOUND without a driver or that GPU; UNAVAILABLE where
// the GPU is there and cannot be used; FAILED_PRECONDITION, naming the version that is needed,
// where one of them is too old, or where `fast` finds no cuBLASLt.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_BACKEND_H_
