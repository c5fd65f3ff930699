#ifndef QWENSERVE_SERVICES_COMMON_METRICS_METRICS_COMPAT_H_
#define QWENSERVE_SERVICES_COMMON_METRICS_METRICS_COMPAT_H_

#include <string>
#include <vector>

#include "prometheus/metric_family.h"
#include "services/common/flags.h"
#include "services/common/metrics/metrics.h"

namespace qwenserve {

// --metrics-compat.
struct MetricsCompat {
  std::string names = "none";  // or vllm
};
void AddMetricsCompatFlag(Flags& flags, MetricsCompat* compat);
// Has scrapes tell the aliases that the flag asks for, beside the metrics' own names.
void UseMetricsCompat(const MetricsCompat& compat, Metrics& metrics);

// The metrics under the names that dashboards, autoscalers and endpoint pickers made for vLLM look
// for, with vLLM's labels (model_name, engine="0") and vLLM's meaning: of a generator what its
// engine does, of a gateway what it and all replicas behind it do. Families that a process does not
// have have no alias. Source of the names: vLLM 0.11, vllm/v1/metrics/loggers.py.
std::vector<prometheus::MetricFamily> VllmAliases(
    const std::vector<prometheus::MetricFamily>& families);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_METRICS_METRICS_COMPAT_H_
