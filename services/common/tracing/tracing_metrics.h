#ifndef QWENSERVE_SERVICES_COMMON_TRACING_TRACING_METRICS_H_
#define QWENSERVE_SERVICES_COMMON_TRACING_TRACING_METRICS_H_

#include "services/common/metrics/metrics.h"

namespace qwenserve {

// Where tracing is on: what became of ended spans.
struct TracingMetrics {
  explicit TracingMetrics(Metrics& metrics);
  Counter& sent;
  Counter& rejected;            // by the collector
  Counter& dropped_queue_full;  // it is slow or away
  Counter& dropped_not_sent;    // all tries failed, or the process ended
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_TRACING_TRACING_METRICS_H_
