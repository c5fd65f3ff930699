#ifndef QWENSERVE_SERVICES_GATEWAY_METRICS_GATEWAY_METRICS_H_
#define QWENSERVE_SERVICES_GATEWAY_METRICS_GATEWAY_METRICS_H_

#include <map>
#include <string>
#include <vector>

#include "services/common/metrics/metrics.h"
#include "services/gateway/metrics/model_metrics.h"

namespace qwenserve {

// A gateway's metrics of calls and workers. Those of its ports and files: edge_metrics.h.
struct GatewayMetrics {
  // Index into `requests` and `duration`.
  enum Method {
    kChat,
    kStreamChat,
    kComplete,
    kStreamComplete,
    kTokenize,
    kDetokenize,
    kListModels,
    kGetModel,
    kHttpChat,
    kHttpStreamChat,
    kHttpComplete,
    kHttpStreamComplete,
    kHttpTokenize,
    kHttpDetokenize,
    kHttpListModels,
    kHttpGetModel,
    kNumMethods
  };
  static const char* MethodName(Method method);

  // Why a request was turned away or ended for want of room. Index into `sheds`.
  enum Shed {
    kShedRequests,   // too many in flight
    kShedBytes,      // their memory
    kShedQueueFull,  // too many waiting
    kShedDisplaced,  // ... and one of a higher priority came
    kShedWait,       // it would wait too long
    kShedDeadline,   // its deadline could not be met
    kShedQuotaRequests,
    kShedQuotaTokens,
    kShedQuotaConcurrency,
    kShedSlowConsumer,
    kNumSheds
  };

  // How far a request was when its client left. Index into `cancels`.
  enum Stage { kPreparing, kWaiting, kRunning };

  explicit GatewayMetrics(Metrics& metrics);
  // Of a model that a generator serves, never of what a client writes.
  ModelMetrics& OfModel(const std::string& model) { return models_.Of(model); }
  void SetLoads(const std::map<std::string, ModelLoad>& loads,
                const std::map<std::string, size_t>& waiting_here) {
    models_.SetLoads(loads, waiting_here);
  }

  std::vector<CounterPerCode> requests;
  std::vector<Histogram*> duration;
  Gauge& in_flight;
  Gauge& waiting;
  std::vector<Counter*> sheds;
  std::vector<Counter*> cancels;
  Counter& peers_at_stream_limit;
  Gauge& tokenizers_ready;
  Gauge& generators_ready;
  Counter& tokenizers_lost;
  Counter& generators_lost;
  Gauge& generators_ejected;
  Gauge& generators_breaker_open;
  Counter& ejected_errors;
  Counter& ejected_latency;
  Counter& breakers_opened;
  // Of the lists of workers.
  Gauge& tokenizers_listed;
  Gauge& generators_listed;
  Counter& dns_failures;
  Counter& file_failures;
  // Requests placed, by why at that replica.
  Counter& placed_known_prefix;
  Counter& placed_home;
  Counter& placed_least_load;
  std::vector<Counter*> failovers;  // by LossCause
  Histogram& failover_gap;
  Counter& retry_budget_exhausted;
  Counter& suspected_poison;

 private:
  ModelMetricsMap models_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_METRICS_GATEWAY_METRICS_H_
