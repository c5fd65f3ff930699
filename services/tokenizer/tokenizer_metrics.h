#ifndef QWENSERVE_SERVICES_TOKENIZER_TOKENIZER_METRICS_H_
#define QWENSERVE_SERVICES_TOKENIZER_TOKENIZER_METRICS_H_

#include "services/common/metrics/metrics.h"

namespace qwenserve {

struct TokenizerMetrics {
  explicit TokenizerMetrics(Metrics& metrics);
  CounterPerCode prepare_requests;
  Histogram& prepare_duration;
  Counter& prompt_tokens;
  Gauge& detokenize_streams;
  Counter& detokenize_steps;
  Counter& detokenize_tokens;
  Counter& detokenize_item_errors;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_TOKENIZER_TOKENIZER_METRICS_H_
