#include "engine/evaluate/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

// log(sum of exp(x)) of a row.
double LogSumExp(const float* row, int64_t count) {
  const double largest = *std::max_element(row, row + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(row[i] - largest);
  return largest + std::log(sum);
}

int64_t Top(const float* row, int64_t count) { return std::max_element(row, row + count) - row; }

absl::StatusOr<absl::Span<const float>> TimedRun(LogitRunner& runner, absl::Span<const int32_t> ids,
                                                 int64_t first, int64_t count, double* seconds) {
  const auto began = std::chrono::steady_clock::now();
  auto logits = runner.Run(ids, first, count);
  *seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return logits;
}

// Adds the rows of one step; row i predicts targets[i].
absl::Status AddRows(absl::Span<const float> logits, absl::Span<const float> reference,
                     absl::Span<const int32_t> targets, int64_t vocab, ThreadPool& pool,
                     Evaluation* evaluation) {
  const auto count = static_cast<int64_t>(targets.size());
  std::vector<RowScore> scores(targets.size());
  std::vector<RowScore> others(reference.empty() ? 0 : targets.size());
  pool.Run([&](int thread) {
    const WorkRange part = StaticPart(count, thread, pool.num_threads());
    for (int64_t i = part.begin; i < part.end; ++i) {
      const float* other = reference.empty() ? nullptr : reference.data() + i * vocab;
      scores[i] = ScoreRow(logits.data() + i * vocab, other, vocab, targets[i]);
      if (other != nullptr) others[i] = ScoreRow(other, nullptr, vocab, targets[i]);
    }
  });
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(scores[i].negative_log_likelihood) || !std::isfinite(scores[i].kl)) {
      return absl::InternalError(absl::StrCat("the logits for token ", evaluation->model.tokens,
                                              " are not finite: the weights are damaged"));
    }
    ++evaluation->model.tokens;
    evaluation->model.negative_log_likelihood += scores[i].negative_log_likelihood;
    if (others.empty()) continue;
    ++evaluation->reference.tokens;
    evaluation->reference.negative_log_likelihood += others[i].negative_log_likelihood;
    evaluation->divergence.kl_sum += scores[i].kl;
    evaluation->divergence.kl_max = std::max(evaluation->divergence.kl_max, scores[i].kl);
    evaluation->divergence.same_top += scores[i].same_top ? 1 : 0;
  }
  return absl::OkStatus();
}

}  // namespace

double TextScore::perplexity() const { return std::exp(mean()); }

RowScore ScoreRow(const float* row, const float* reference, int64_t vocab, int32_t target) {
  const double total = LogSumExp(row, vocab);
  RowScore score;
  score.negative_log_likelihood = total - row[target];
  if (reference == nullptr) return score;
  const double reference_total = LogSumExp(reference, vocab);
  for (int64_t i = 0; i < vocab; ++i) {
    const double expected = reference[i] - reference_total;
    score.kl += std::exp(expected) * (expected - (row[i] - total));
  }
  score.same_top = Top(row, vocab) == Top(reference, vocab);
  return score;
}

absl::StatusOr<Evaluation> Evaluate(absl::Span<const int32_t> ids, int64_t length,
                                    LogitRunner& model, LogitRunner* reference, ThreadPool& pool,
                                    const std::function<void(int64_t, int64_t)>& progress,
                                    const std::function<bool()>& cancelled) {
  if (ids.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", ids.size(), " tokens; at least 2 are needed"));
  }
  const int64_t vocab = model.vocab_size();
  if (reference != nullptr && reference->vocab_size() != vocab) {
    return absl::InvalidArgumentError(absl::StrCat("the models have vocabularies of ", vocab,
                                                   " and ", reference->vocab_size(), " entries"));
  }
  const int64_t step =
      reference == nullptr ? model.max_rows() : std::min(model.max_rows(), reference->max_rows());
  const auto total = static_cast<int64_t>(ids.size());
  Evaluation evaluation;
  for (int64_t begin = 0; begin + 1 < total; begin += length) {
    const auto window = ids.subspan(begin, std::min(length, total - begin));
    const auto size = static_cast<int64_t>(window.size());
    for (int64_t first = 0; first < size; first += step) {
      if (cancelled && cancelled()) return absl::CancelledError("interrupted");
      const int64_t count = std::min(step, size - first);
      QS_ASSIGN_OR_RETURN(const absl::Span<const float> logits,
                          TimedRun(model, window, first, count, &evaluation.model.seconds));
      absl::Span<const float> other;
      if (reference != nullptr) {
        QS_ASSIGN_OR_RETURN(
            other, TimedRun(*reference, window, first, count, &evaluation.reference.seconds));
      }
      // The window's last row predicts what is not in the window.
      const int64_t scored = std::min(count, size - 1 - first);
      QS_RETURN_IF_ERROR(
          AddRows(logits, other, window.subspan(first + 1, scored), vocab, pool, &evaluation));
      if (progress) progress(begin + first + count, total);
    }
  }
  return evaluation;
}

}  // namespace qwenserve
