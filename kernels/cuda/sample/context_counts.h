#ifndef QWENSERVE_KERNELS_CUDA_SAMPLE_CONTEXT_COUNTS_H_
#define QWENSERVE_KERNELS_CUDA_SAMPLE_CONTEXT_COUNTS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "kernels/cuda/sample/sample_jobs.h"

namespace qwenserve {

// The distinct ids of contexts and how often each was generated. A context is remembered by where
// it lies in memory, so that a step counts only what the step before added; it is compared with
// what was counted, so anything may lie there next time. One thread.
class ContextCounts {
 public:
  // Valid until the next call. Ids stand in the order in which they first occur.
  absl::Span<const ContextId> Of(absl::Span<const int32_t> ids, int64_t num_prompt_ids);

  // Forgets what was not asked for since the last kKept calls of this.
  void EndStep();

  // For tests: ids counted so far.
  int64_t counted() const { return counted_; }

 private:
  static constexpr int64_t kKept = 16;

  struct Context {
    std::vector<int32_t> ids;                      // what was counted
    absl::flat_hash_map<int32_t, int32_t> places;  // id -> index in `distinct`
    std::vector<ContextId> distinct;
    int64_t last_step = 0;
  };

  absl::flat_hash_map<std::pair<const int32_t*, int64_t>, Context> contexts_;
  int64_t step_ = 0;
  int64_t counted_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_SAMPLE_CONTEXT_COUNTS_H_
