#ifndef QWENSERVE_KERNELS_BACKEND_H_
#define QWENSERVE_KERNELS_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention_batch.h"
#include "kernels/buffer.h"
#include "kernels/linear_weight.h"
#include "kernels/sample_row.h"
#include "kernels/shard_sampler.h"

namespace qwenserve {

// The numbers of one device: the only interface through which the model computes.
//
// Ops are whole-batch, asynchronous and void; what goes wrong on the device comes back from Sync().
// Arguments are checked once per op (QS_CHECK: shapes are our own business, never a client's).
// Activations are row-major float on every backend that this header knows today; `rows` is always
// the first argument's leading dimension.
//
// Contract of every op: a row of the result depends only on that row's inputs and absolute
// position. The order of every sum is fixed by (op, shape, format) and is the same for one row and
// for many, for any number of threads and for any cut of a prefill. That is what makes a token
// reproducible on another replica.
//
// One backend belongs to one rank and is used by one thread at a time.
class Backend {
 public:
  virtual ~Backend() = default;

  // What decides the bits of results besides the inputs: part of the numerics fingerprint. With
  // weights of some format an instruction set may have an order of its own, hence the argument; an
  // equal name promises equal bits on any machine.
  virtual std::string kernel_table(WeightFormat weights) const = 0;

  // --- Memory ---------------------------------------------------------------------------------

  // Aligned to 64 bytes, zeroed. RESOURCE_EXHAUSTED with the size when there is no room.
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes) = 0;
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

  // --- Ops ------------------------------------------------------------------------------------

  // out[r] = row ids[r] - first_id of `table`, or zeros when that row is not in the table (it is
  // then on another rank). ids: device, [rows]; out: [rows, table.in_features].
  virtual void Embed(const int32_t* ids, int64_t rows, const LinearWeight& table, int64_t first_id,
                     float* out) = 0;

  // out = x / sqrt(mean(x^2) + epsilon) * weight. x, out: [rows, width]; weight: [width].
  virtual void RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight,
                       float epsilon, float* out) = 0;

  // residual += x; out = RmsNorm(residual). out may be x. All [rows, width].
  virtual void AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual,
                          const float* weight, float epsilon, float* out) = 0;

  // out = x * weight^T + bias. x: [rows, in_features]; bias: [out_features] or null;
  // out: [rows, out_features]. The only matrix product. For a quantised weight each row of x is
  // rounded to 8 bits in blocks of kQuantBlock inputs, each with its own scale.
  virtual void Linear(const float* x, int64_t rows, const LinearWeight& weight, const float* bias,
                      float* out) = 0;

  // For every row of qkv [num_rows, heads.qkv_width()] = [queries | keys | values]: normalises each
  // query and key head (q_norm, k_norm: [head_dim], null = off), rotates both by the row's rope
  // table (pairs (i, i + head_dim / 2)), scales the query by query_scales, writes the query back in
  // place and stores key and value in the cache at the row's position.
  virtual void NormRopeStoreKv(const AttentionBatch& batch, const HeadLayout& heads,
                               const float* q_norm, const float* k_norm, float epsilon,
                               absl::Span<const RopeTable> rope, float* qkv, const KvLayer& kv) = 0;

  // out[r] = softmax(q[r] K^T / sqrt(head_dim)) V over positions 0..positions[r] of its sequence.
  // Queries are read in place from qkv; out: [num_rows, heads.query_width()].
  virtual void PagedAttention(const AttentionBatch& batch, const HeadLayout& heads,
                              const float* qkv, const KvLayer& kv, float* out) = 0;

  // out = silu(gate) * up, gate_up: [rows, 2 * width] = [gate | up], out: [rows, width].
  virtual void SiluMul(const float* gate_up, int64_t rows, int64_t width, float* out) = 0;

  // out[i] = x[rows[i]]. x: [*, width]; rows: device, [num_rows]; out: [num_rows, width].
  virtual void GatherRows(const float* x, int64_t width, const int32_t* rows, int64_t num_rows,
                          float* out) = 0;

  // Draws one id for each row of logits [rows.size(), stride]; ids >= vocab_size are padding and
  // never drawn. Overwrites the logits. tokens: host, [rows.size()], valid after Sync().
  // A row without usable logits gives id -1 (SampledToken says when); the others don't notice.
  virtual void Sample(float* logits, int64_t stride, int64_t vocab_size,
                      absl::Span<const SampleRow> rows, SampledToken* tokens) = 0;

  // For a vocabulary cut over ranks; null: this device has none, and whole rows are gathered.
  virtual ShardSampler* shard_sampler() { return nullptr; }

  // Waits for all ops so far. The first device error since the last call; then the backend is dead.
  virtual absl::Status Sync() = 0;
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

// UNIMPLEMENTED, with the reason, in a build without CUDA or on a machine without a usable GPU.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int device);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_BACKEND_H_
