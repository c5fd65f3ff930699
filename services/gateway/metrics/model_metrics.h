#ifndef QWENSERVE_SERVICES_GATEWAY_METRICS_MODEL_METRICS_H_
#define QWENSERVE_SERVICES_GATEWAY_METRICS_MODEL_METRICS_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/metrics/metrics.h"

namespace qwenserve {

// All replicas of one model, as one gateway sees them: the sums of their last heartbeats.
struct ModelLoad {
  int64_t replicas = 0;  // that take work
  int64_t running = 0;   // sequences in their batches, of all gateways
  int64_t waiting = 0;   // sequences they have accepted beyond that
  int64_t used_blocks = 0;
  int64_t total_blocks = 0;
  int64_t block_tokens = 0;
};

// A gateway's metrics of one model. `queued`, `running`, `kv_usage_ratio` and the cache information
// are what the model server protocol of the Gateway API inference extension asks of an endpoint:
// the endpoint is the gateway with all that is behind it.
class ModelMetrics {
 public:
  // Answers by why they ended, in the order of v1::FinishReason from STOP on.
  enum Finish { kStop, kLength, kToolCalls, kNumFinishes };

  ModelMetrics(Metrics& metrics, const std::string& model);

  // `waiting_here`: requests that wait in this gateway. Not thread-safe.
  void SetLoad(const ModelLoad& load, size_t waiting_here);

  Histogram& predicted_wait;
  Histogram& actual_wait;
  Histogram& time_to_first_token;
  Histogram& inter_token;
  Histogram& duration;
  Histogram& prompt_tokens_per_request;
  Histogram& completion_tokens_per_request;
  Counter& prompt_tokens;
  Counter& cached_prompt_tokens;
  Counter& completion_tokens;
  std::array<Counter*, kNumFinishes> finished;

 private:
  const std::string model_;
  Gauge& queue_depth_;
  Gauge& queued_;
  Gauge& running_;
  Gauge& kv_usage_ratio_;
  Gauge& replicas_;
  prometheus::Family<Gauge>& cache_info_family_;
  Gauge* cache_info_ = nullptr;  // null: no replica has been seen
  int64_t block_tokens_ = 0;     // that it tells of
  int64_t total_blocks_ = 0;
};

// Those of all models that generators have served since the start. What clients write as a model
// never comes here. Thread-safe.
class ModelMetricsMap {
 public:
  explicit ModelMetricsMap(Metrics& metrics) : metrics_(metrics) {}

  // Stays valid as long as this object.
  ModelMetrics& Of(const std::string& model);

  // Sets the gauges of all models; those that `loads` lacks have no replica.
  void SetLoads(const std::map<std::string, ModelLoad>& loads,
                const std::map<std::string, size_t>& waiting_here);

 private:
  Metrics& metrics_;
  absl::Mutex mutex_;
  std::map<std::string, std::unique_ptr<ModelMetrics>> models_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_METRICS_MODEL_METRICS_H_
