#include "services/common/tracing/tracing_metrics.h"

#include "services/common/metrics/metric_builders.h"

namespace qwenserve {
namespace {

Counter& SpanCounter(Metrics& metrics, const char* result) {
  return AddCounter(metrics, "qwenserve_trace_spans_total",
                    "Spans of traced requests, by what became of them", {{"result", result}});
}

}  // namespace

TracingMetrics::TracingMetrics(Metrics& metrics)
    : sent(SpanCounter(metrics, "sent")),
      rejected(SpanCounter(metrics, "rejected")),
      dropped_queue_full(SpanCounter(metrics, "dropped_queue_full")),
      dropped_not_sent(SpanCounter(metrics, "dropped_not_sent")) {}

}  // namespace qwenserve
