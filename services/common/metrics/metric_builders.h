#ifndef QWENSERVE_SERVICES_COMMON_METRICS_METRIC_BUILDERS_H_
#define QWENSERVE_SERVICES_COMMON_METRICS_METRIC_BUILDERS_H_

#include <map>
#include <string>

#include "services/common/metrics/metrics.h"

namespace qwenserve {

// For the files that declare a process's metrics. A family is registered once; the same name again
// gives the same family.

using MetricLabels = std::map<std::string, std::string>;
using MetricBuckets = Histogram::BucketBoundaries;

prometheus::Family<Counter>& Counters(Metrics& metrics, const char* name, const char* help);
prometheus::Family<Gauge>& Gauges(Metrics& metrics, const char* name, const char* help);
prometheus::Family<Histogram>& Histograms(Metrics& metrics, const char* name, const char* help);

Counter& AddCounter(Metrics& metrics, const char* name, const char* help,
                    const MetricLabels& labels = {});
Gauge& AddGauge(Metrics& metrics, const char* name, const char* help,
                const MetricLabels& labels = {});
Histogram& AddHistogram(Metrics& metrics, const char* name, const char* help,
                        const MetricBuckets& buckets, const MetricLabels& labels = {});

// Upper bounds, in seconds but for the last two.
MetricBuckets RequestSeconds();     // whole requests and waits
MetricBuckets FirstTokenSeconds();  // until something is to be seen
MetricBuckets StepSeconds();        // engine steps and what comes once a step
MetricBuckets TokenCounts();        // of prompts and answers
MetricBuckets BatchCounts();        // rows and sequences of a step

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_METRICS_METRIC_BUILDERS_H_
