#include "services/tokenizer/tokenizer_metrics.h"

#include "services/common/metrics/metric_builders.h"

namespace qwenserve {
namespace {

MetricBuckets PrepareSeconds() {
  return {0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1};
}

}  // namespace

TokenizerMetrics::TokenizerMetrics(Metrics& metrics)
    : prepare_requests(Counters(metrics, "qwenserve_tokenizer_prepare_requests_total",
                                "Prompts prepared, by status"),
                       {}),
      prepare_duration(AddHistogram(metrics, "qwenserve_tokenizer_prepare_duration_seconds",
                                    "Time to prepare a prompt", PrepareSeconds())),
      prompt_tokens(AddCounter(metrics, "qwenserve_tokenizer_prompt_tokens_total",
                               "Ids given back for prompts")),
      detokenize_streams(
          AddGauge(metrics, "qwenserve_tokenizer_detokenize_streams", "Open detokenize streams")),
      detokenize_steps(
          AddCounter(metrics, "qwenserve_tokenizer_detokenize_steps_total", "Detokenize messages")),
      detokenize_tokens(AddCounter(metrics, "qwenserve_tokenizer_detokenize_tokens_total",
                                   "Ids turned into text")),
      detokenize_item_errors(AddCounter(metrics, "qwenserve_tokenizer_detokenize_item_errors_total",
                                        "Detokenize items refused")) {}

}  // namespace qwenserve
