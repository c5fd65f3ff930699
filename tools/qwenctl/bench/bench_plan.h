#ifndef QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_PLAN_H_
#define QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_PLAN_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tools/qwenctl/bench/bench_options.h"

namespace qwenserve {

struct PlannedRequest {
  uint64_t number = 0;
  // From the beginning of the run; only in an open loop.
  absl::Duration start;
  std::vector<uint32_t> prompt_ids;  // or, for chat and when the vocabulary's size is not known,
  std::string prompt_text;           // words of about as many tokens
  uint32_t max_tokens = 0;
  uint64_t seed = 0;
};

// The requests of a run, one after another: the same options give the same ones.
class BenchPlan {
 public:
  // `vocab_size`: 0 when it is not known. INVALID_ARGUMENT for lengths that cannot be read.
  static absl::StatusOr<BenchPlan> Create(const BenchOptions& options, uint32_t vocab_size);

  PlannedRequest Next();

 private:
  BenchPlan(const BenchOptions& options, LengthSpec prompt, LengthSpec answer, uint32_t vocab_size);
  std::vector<uint32_t> DrawIds(std::mt19937_64& random, uint32_t count) const;

  const BenchOptions options_;
  const LengthSpec prompt_;
  const LengthSpec answer_;
  const uint32_t vocab_size_;
  std::vector<std::vector<uint32_t>> prefixes_;
  std::mt19937_64 random_;
  uint64_t next_ = 0;
  absl::Duration start_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_PLAN_H_
