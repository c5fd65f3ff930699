#ifndef QWENSERVE_ENGINE_EVALUATE_PERPLEXITY_H_
#define QWENSERVE_ENGINE_EVALUATE_PERPLEXITY_H_

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/evaluate/logit_runner.h"
#include "kernels/cpu/thread_pool.h"

namespace qwenserve {

// How well a model predicts a text.
struct TextScore {
  int64_t tokens = 0;                  // predicted: all but the first of each window
  double negative_log_likelihood = 0;  // sum, natural logarithm
  double seconds = 0;                  // in the model

  double mean() const { return negative_log_likelihood / static_cast<double>(tokens); }
  double perplexity() const;
};

// How far a model's predictions are from those of a reference, over the tokens of a TextScore.
struct Divergence {
  double kl_sum = 0;  // sum of KL(reference || model), natural logarithm
  double kl_max = 0;
  int64_t same_top = 0;  // positions where both find the same token most likely
};

struct Evaluation {
  TextScore model;
  TextScore reference;    // with a reference
  Divergence divergence;  // with a reference
};

// The log-probabilities of one row of logits, in double.
struct RowScore {
  double negative_log_likelihood = 0;  // of the target
  double kl = 0;                       // KL(reference || row); 0 without a reference
  bool same_top = false;
};

// reference: null, or [vocab] too. Ties for the top go to the lower id. NaN in the result when a
// logit is.
RowScore ScoreRow(const float* row, const float* reference, int64_t vocab, int32_t target);

// Cuts `ids` into windows of `length` tokens without overlap (the last may be shorter, and is left
// out when it has a single token), each of which starts without context, and scores every token
// but the windows' first, the rows on all threads of `pool`. `reference` may be null; else both
// models must have one vocabulary.
// `progress`: tokens done and in all, after each step; `cancelled` is asked there.
//
// INVALID_ARGUMENT for fewer than two ids or different vocabularies, CANCELLED, INTERNAL naming
// the position when a model's logits are not finite.
absl::StatusOr<Evaluation> Evaluate(absl::Span<const int32_t> ids, int64_t length,
                                    LogitRunner& model, LogitRunner* reference, ThreadPool& pool,
                                    const std::function<void(int64_t, int64_t)>& progress,
                                    const std::function<bool()>& cancelled);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_EVALUATE_PERPLEXITY_H_
