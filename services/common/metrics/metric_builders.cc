#include "services/common/metrics/metric_builders.h"

namespace qwenserve {

prometheus::Family<Counter>& Counters(Metrics& metrics, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(metrics.registry());
}

prometheus::Family<Gauge>& Gauges(Metrics& metrics, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(metrics.registry());
}

prometheus::Family<Histogram>& Histograms(Metrics& metrics, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(metrics.registry());
}

Counter& AddCounter(Metrics& metrics, const char* name, const char* help,
                    const MetricLabels& labels) {
  return Counters(metrics, name, help).Add(labels);
}

Gauge& AddGauge(Metrics& metrics, const char* name, const char* help, const MetricLabels& labels) {
  return Gauges(metrics, name, help).Add(labels);
}

Histogram& AddHistogram(Metrics& metrics, const char* name, const char* help,
                        const MetricBuckets& buckets, const MetricLabels& labels) {
  return Histograms(metrics, name, help).Add(labels, buckets);
}

MetricBuckets RequestSeconds() {
  return {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};
}

MetricBuckets FirstTokenSeconds() {
  return {0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
}

MetricBuckets StepSeconds() {
  return {0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05,
          0.075, 0.1,    0.15,  0.2,  0.3,   0.5,  1,     2.5,  5,    10};
}

MetricBuckets TokenCounts() {
  return {1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072};
}

MetricBuckets BatchCounts() {
  return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
}

}  // namespace qwenserve
