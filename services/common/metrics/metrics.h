#ifndef QWENSERVE_SERVICES_COMMON_METRICS_METRICS_H_
#define QWENSERVE_SERVICES_COMMON_METRICS_METRICS_H_

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace qwenserve {

// What all processes have of metrics. Those of one kind of process are beside it:
// generator/generator_metrics.h, gateway/metrics, tokenizer/tokenizer_metrics.h. docs/metrics.md
// lists them all.
//
// Label sets are closed and each series exists at 0 from the start, or from when its model is
// known, so that a rate is right from the first event and no client can make the set grow: a label
// is a constant of the program, a rank, or the name under which a generator serves its model.
// Recording is thread-safe.

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;

// Brings a counter up to a total that is counted elsewhere.
void RaiseTo(Counter& counter, double total);

// One counter per gRPC status code.
class CounterPerCode {
 public:
  CounterPerCode(prometheus::Family<Counter>& family, std::map<std::string, std::string> labels);
  void Increment(absl::StatusCode code);

 private:
  std::array<Counter*, 17> counters_;
};

// Values that are gathered by one thread and go into a histogram in one piece: a lock for each step
// instead of one for each token. Not thread-safe but for the histogram.
class HistogramBatch {
 public:
  // `bounds`: the histogram's own, in its unit.
  HistogramBatch(Histogram& histogram, Histogram::BucketBoundaries bounds);
  void Observe(double value, int times = 1);
  // Hands over what came since the last call.
  void Flush();

 private:
  Histogram& histogram_;
  const Histogram::BucketBoundaries bounds_;
  std::vector<double> counts_;
  double sum_ = 0;
  bool empty_ = true;
};

// The registry of a process and what all processes have: build information, process_* (read from
// /proc at each scrape).
class Metrics {
 public:
  // What is added to the text of a scrape, made from what the scrape has collected.
  using Rewrite = std::function<std::vector<prometheus::MetricFamily>(
      const std::vector<prometheus::MetricFamily>&)>;

  // `role`: gateway, tokenizer or generator.
  explicit Metrics(absl::string_view role);

  // `update` runs before each scrape, for values that are read rather than counted. It must stay
  // callable as long as the object lives, or until ClearScrapeHooks.
  void OnScrape(std::function<void()> update);
  void ClearScrapeHooks();
  // Aliases under other names. One at most.
  void SetAliases(Rewrite aliases);

  // Text format 0.0.4.
  std::string Scrape();

  prometheus::Registry& registry() { return *registry_; }

 private:
  void UpdateProcess();

  std::shared_ptr<prometheus::Registry> registry_;
  absl::Mutex mutex_;
  std::vector<std::function<void()>> hooks_ ABSL_GUARDED_BY(mutex_);
  Rewrite aliases_ ABSL_GUARDED_BY(mutex_);
  Gauge& start_time_;
  Gauge& resident_memory_;
  Gauge& open_descriptors_;
  Gauge& max_descriptors_;
  Counter& cpu_seconds_;
};

// Of the gRPC server of any process.
struct ServerMetrics {
  explicit ServerMetrics(Metrics& metrics);
  Gauge& ready;
  Gauge& connections;
  Counter& accepted;
  Counter& refused_limit;
  Counter& refused_peer_limit;
  Counter& refused_descriptors;
  Counter& refused_proxy_header;
};

// Watched files read anew, by file and result; also for what only one kind of process reads.
Counter& ReloadCounter(Metrics& metrics, const std::string& file, const char* result);

// Of certificates; `name` is tls, worker_tls or otlp_tls.
struct TlsMetrics {
  TlsMetrics(Metrics& metrics, const std::string& name);
  Gauge& not_after;
  Counter& reloads_ok;
  Counter& reloads_failed;
};

// Connections reset instead of accepted, for each port of a process.
inline constexpr char kRefusedHelp[] = "Connections reset instead of accepted, by cause";

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_METRICS_METRICS_H_
