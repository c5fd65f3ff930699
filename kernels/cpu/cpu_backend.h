#ifndef QWENSERVE_KERNELS_CPU_CPU_BACKEND_H_
#define QWENSERVE_KERNELS_CPU_CPU_BACKEND_H_

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/sample/sampling.h"
#include "kernels/cpu/sample/shard_sampler.h"
#include "kernels/cpu/thread_pool.h"

namespace qwenserve {

// Backend on the host's cores. Device memory is host memory, every op is done when it returns.
// This class cuts the work into parts for the threads; the arithmetic is in the kernel table, and
// no sum ever crosses a part, so the number of threads changes no bit.
class CpuBackend final : public Backend {
 public:
  CpuBackend(const KernelTable& kernels, const CpuBackendOptions& options);

  std::string kernel_table(WeightFormat weights) const override;

  absl::StatusOr<Buffer> Allocate(size_t bytes) override;
  void CopyToDevice(const void* host, size_t bytes, void* device) override;
  void CopyToHost(const void* device, size_t bytes, void* host) override;
  absl::StatusOr<LinearWeight> PackLinear(absl::Span<const RowBlock> blocks,
                                          int64_t in_features) override;
  absl::StatusOr<LinearWeight> PackQuantized(const QuantizedShape& shape,
                                             const QuantizedRowSource& rows) override;
  size_t KvBytesPerBlock(const HeadLayout& heads, KvFormat format) const override;

  void TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) override;
  void Embed(const int32_t* ids, int64_t rows, const LinearWeight& table, int64_t first_id,
             float* out) override;
  void RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight, float epsilon,
               void* out) override;
  void AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual, const float* weight,
                  float epsilon, void* out) override;
  void Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
              float* out) override;
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
  bool reads_last_id() const override { return true; }
  ShardSampler* shard_sampler() override { return &shard_sampler_; }
  absl::Status Sync() override;

 private:
  // Elementwise work below this many floats is done before another thread has noticed it.
  static constexpr int64_t kMinParallelFloats = 8192;

  struct ThreadScratch {
    std::vector<float> floats;
    std::vector<char> rounded;  // input of the product at work, where it is one row
    SampleScratch sample;
  };

  // Calls work(begin, end, thread) on disjoint parts of 0..count-1; on the calling thread alone
  // when all of it is worth less than waking the others. cost: floats touched per item.
  void ParallelFor(int64_t count, int64_t cost,
                   absl::FunctionRef<void(int64_t, int64_t, int)> work);
  // Likewise for the panels of a product, in pieces: prepare(thread) once in each thread, then
  // work(begin, end, thread) for as long as any thread has panels left.
  void ParallelPanels(int64_t panels, int64_t cost, absl::FunctionRef<void(int)> prepare,
                      absl::FunctionRef<void(int64_t, int64_t, int)> work);
  // Likewise, but each thread only the part that ParallelPanels offers it first: what it writes
  // here comes to lie near it.
  void ParallelOwnPanels(int64_t panels, int64_t cost,
                         absl::FunctionRef<void(int64_t, int64_t, int)> work);
  // Likewise one item at a time, to whichever thread is free.
  void ParallelForDynamic(int64_t count, absl::FunctionRef<void(int64_t, int)> work);
  void QuantLinear(const float* x, int64_t rows, const LinearWeight& weight, const float* bias,
                   float* out);
  void Bf16DotLinear(const float* x, int64_t rows, const LinearWeight& weight, const float* bias,
                     float* out);
  float* Scratch(int thread, int64_t floats);
  // One row of NormRopeStoreKv, without the store of its keys and values.
  void NormRopeRow(const AttentionBatch& batch, const HeadLayout& heads, const float* q_norm,
                   const float* k_norm, float epsilon, absl::Span<const RopeTable> rope,
                   int64_t row, float* qkv);
  void StoreKvRow(const AttentionBatch& batch, const HeadLayout& heads, int64_t row,
                  const float* qkv, const KvLayer& kv);
  void StoreQwenInt8Rows(const AttentionBatch& batch, const HeadLayout& heads, int64_t sequence,
                         int32_t kv_head, const float* qkv, const KvLayer& kv);

  bool bf16_pairs() const { return kernels_.bf16_dot != nullptr; }

  const KernelTable& kernels_;
  ThreadPool pool_;
  WorkParts panels_;
  std::vector<ThreadScratch> scratch_;  // by thread
  // The chunks of one row on all threads.
  const std::function<void(int64_t, absl::FunctionRef<void(int64_t)>)> run_chunks_;
  CpuShardSampler shard_sampler_;
  std::vector<char> rounded_;  // inputs of the product at work
  AttentionPlanner attention_planner_;
  std::vector<float> attention_partials_;
  std::vector<std::atomic<int32_t>> attention_cuts_done_;  // items of each cut
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_CPU_BACKEND_H_
