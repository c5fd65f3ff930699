#ifndef QWENSERVE_ENGINE_EVALUATE_LOGIT_RUNNER_H_
#define QWENSERVE_ENGINE_EVALUATE_LOGIT_RUNNER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/cache/kv_cache.h"
#include "engine/evaluate/sequence_batch.h"
#include "engine/loader/checkpoint.h"
#include "engine/loader/weight_choice.h"
#include "engine/model/activations.h"
#include "engine/model/qwen.h"
#include "engine/parallel/shard_plan.h"
#include "kernels/backend.h"
#include "kernels/communicator.h"
#include "kernels/kv_format.h"

namespace qwenserve {

struct LogitRunnerOptions {
  WeightChoice weights = WeightChoice::kAuto;
  KvFormat kv_format = KvFormat::kBf16;
  int num_threads = 1;
  std::string isa = "auto";
  int64_t max_length = 512;  // tokens of a text
  int64_t max_rows = 128;    // of a step; qwen-int8, which depends on the cut, takes max_length
};

// A model that tells the logits of every position of a text: the engine's own forward pass on one
// rank, without scheduler and sampler. One thread.
class LogitRunner {
 public:
  // `checkpoint` must outlive the runner.
  static absl::StatusOr<std::unique_ptr<LogitRunner>> Create(const Checkpoint& checkpoint,
                                                             const LogitRunnerOptions& options);

  // Runs positions first .. first + count - 1 of `ids`; those before them must have been run, in
  // order and with the same ids. count <= max_rows(). Logits are [count, vocab_size()], row i for
  // the token behind position first + i. INVALID_ARGUMENT for ids outside the vocabulary.
  absl::StatusOr<absl::Span<const float>> Run(absl::Span<const int32_t> ids, int64_t first,
                                              int64_t count);

  int64_t max_rows() const { return activations_.max_rows; }
  int64_t vocab_size() const { return checkpoint_.config().vocab_size; }
  // Formats of the matrices, such as "int4", or "bf16, int8" for different ones.
  std::string WeightFormats() const;
  int64_t weight_bytes() const;

 private:
  explicit LogitRunner(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  const Checkpoint& checkpoint_;
  // In this order, since everything below must go before the backend.
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Communicator> communicator_;
  ShardPlan shard_;
  ModelWeights weights_;
  KvCache kv_;
  Activations activations_;
  SequenceBatch batch_;
  Buffer ids_, logit_rows_;
  std::vector<float> logits_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_EVALUATE_LOGIT_RUNNER_H_
