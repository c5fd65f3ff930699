#ifndef QWENSERVE_SERVICES_COMMON_METRICS_H_
#define QWENSERVE_SERVICES_COMMON_METRICS_H_

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

// Every metric of every process is in metrics.cc: name, help, labels, buckets. Label sets are
// closed and each series exists at 0 from the start, so that a rate is right from the first event
// and no client can make the set grow. Recording is thread-safe.

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

// The registry of a process and what all processes have: build information, process_* (read from
// /proc at each scrape).
class Metrics {
 public:
  // `role`: gateway, tokenizer or generator.
  explicit Metrics(absl::string_view role);

  // `update` runs before each scrape, for values that are read rather than counted. It must stay
  // callable as long as the object lives, or until ClearScrapeHooks.
  void OnScrape(std::function<void()> update);
  void ClearScrapeHooks();

  // Text format 0.0.4.
  std::string Scrape();

  prometheus::Registry& registry() { return *registry_; }

 private:
  void UpdateProcess();

  std::shared_ptr<prometheus::Registry> registry_;
  absl::Mutex mutex_;
  std::vector<std::function<void()>> hooks_ ABSL_GUARDED_BY(mutex_);
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

// Of the gateway's API keys.
struct AuthMetrics {
  enum Failure { kMissing, kMalformed, kUnknown, kExpired, kNumFailures };
  static constexpr const char* kFailureNames[kNumFailures] = {"missing", "malformed", "unknown",
                                                              "expired"};

  explicit AuthMetrics(Metrics& metrics);
  Gauge& keys;
  Counter& reloads_ok;
  Counter& reloads_failed;
  std::array<Counter*, kNumFailures> failures;
};

// Of certificates; `name` is tls or worker_tls.
struct TlsMetrics {
  TlsMetrics(Metrics& metrics, const std::string& name);
  Gauge& not_after;
  Counter& reloads_ok;
  Counter& reloads_failed;
};

struct AccessLogMetrics {
  explicit AccessLogMetrics(Metrics& metrics);
  Counter& written;
  Counter& dropped;
};

// qwenserve_model_info: always 1, its labels tell how a replica holds its model.
void SetModelInfo(Metrics& metrics, const std::string& model, const std::string& device,
                  const std::string& weight_format, const std::string& kv_format, int tp);

// `model` is the served name and a label of every series.
struct GeneratorMetrics {
  GeneratorMetrics(Metrics& metrics, const std::string& model);
  Gauge& running;
  Gauge& waiting;
  Gauge& queued_tokens;
  Gauge& kv_blocks_used;
  Gauge& kv_blocks_total;
  Gauge& kv_usage_ratio;
  Gauge& prefix_cache_blocks;
  Gauge& step_age;
  Gauge& sessions;
  Counter& steps;
  Counter& prompt_tokens;
  Counter& cached_prompt_tokens;
  Counter& generated_tokens;
  Counter& preemptions;
  Counter& surplus_tokens;
  Counter& rows_from_pairs;
  Counter& rows_gathered;
  Counter& prefix_cache_queried_tokens;
  Counter& prefix_cache_hit_tokens;
  Counter& prefix_cache_evictions;
  Counter& finished_stop;
  Counter& finished_length;
  Counter& finished_cancelled;
  Counter& finished_deadline;
  Counter& finished_error;
  Counter& rejected;
  Histogram& step_duration;
  Histogram& queue_duration;
};

// Of the gateway's HTTP port.
struct HttpMetrics {
  explicit HttpMetrics(Metrics& metrics);
  Gauge& connections;
  Gauge& requests_in_flight;
  Counter& accepted;
  Counter& refused_limit;
  Counter& refused_peer_limit;
  Counter& refused_descriptors;
  Counter& refused_proxy_header;
  Counter& requests;
  Counter& malformed;
  Counter& handshakes_failed;
  Counter& timeouts;
  Counter& abandoned;
};

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

  explicit GatewayMetrics(Metrics& metrics);
  // Requests of a model that wait. Models are what generators serve, never what clients write.
  void SetQueueDepth(const std::string& model, size_t waiting);
  std::vector<CounterPerCode> requests;
  std::vector<Histogram*> duration;
  Gauge& in_flight;
  Gauge& waiting;
  std::vector<Counter*> sheds;
  Histogram& predicted_wait;
  Histogram& actual_wait;
  Histogram& time_to_first_token;
  Histogram& inter_token;
  Histogram& prompt_tokens_per_request;
  Histogram& completion_tokens_per_request;
  Counter& peers_at_stream_limit;
  Counter& prompt_tokens;
  Counter& completion_tokens;
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
  prometheus::Family<Gauge>& queue_depth_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_METRICS_H_
