#ifndef QWENSERVE_KERNELS_CPU_SAMPLE_SHARD_SAMPLER_H_
#define QWENSERVE_KERNELS_CPU_SAMPLE_SHARD_SAMPLER_H_

#include <vector>

#include "kernels/cpu/sample/row_scan.h"
#include "kernels/shard_sampler.h"

namespace qwenserve {

// Made of the same passes as SampleOne. `kernels` and what `run` refers to must outlive it.
class CpuShardSampler final : public ShardSampler {
 public:
  CpuShardSampler(const KernelTable& kernels, RunChunks run) : kernels_(kernels), run_(run) {}

  bool Top(const float* logits, int64_t size, int64_t first_id, int64_t count,
           std::vector<TokenLogit>* top) override;
  ShardWeights Weigh(const SampleRow& row, const float* logits, int64_t size, int64_t first_id,
                     float max) override;
  bool Draw(const SampleRow& row, int64_t vocab_size, const ShardedRow& all,
            SampledToken* token) override;

 private:
  bool DrawId(const SampleRow& row, int64_t vocab_size, const ShardedRow& all, TokenLogit* drawn);

  const KernelTable& kernels_;
  const RunChunks run_;
  SampleScratch scratch_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_SAMPLE_SHARD_SAMPLER_H_
