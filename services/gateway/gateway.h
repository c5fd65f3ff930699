#ifndef QWENSERVE_SERVICES_GATEWAY_GATEWAY_H_
#define QWENSERVE_SERVICES_GATEWAY_GATEWAY_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/base/monotonic_time.h"
#include "qwenserve/v1/admin.pb.h"
#include "services/common/metrics/metrics_compat.h"
#include "services/common/net/proxied_peers.h"
#include "services/common/tls/tls_material.h"
#include "services/gateway/admission/admission.h"
#include "services/gateway/admission/key_limits.h"
#include "services/gateway/auth/authenticator.h"
#include "services/gateway/auth/cache_salt.h"
#include "services/gateway/call/generate_call.h"
#include "services/gateway/call/request_validation.h"
#include "services/gateway/metrics/gateway_metrics.h"
#include "services/gateway/routing/model_catalog.h"
#include "services/gateway/routing/placement_queue.h"
#include "services/gateway/routing/replica_health.h"
#include "services/gateway/workers/discovery.h"
#include "services/gateway/workers/session_pool.h"
#include "services/gateway/workers/tokenizer_pool.h"

namespace qwenserve {

struct SecurityOptions {
  std::string api_keys;                               // path; empty: anyone may call
  TlsFiles worker_tls;                                // without a ca: plaintext
  std::string access_log = "off";                     // path, "-" or off
  std::string cache_salt_secret_file;                 // empty: random if there are keys
  absl::Duration reload_interval = absl::Seconds(1);  // of what is watched
};

struct GatewayOptions {
  std::vector<std::string> tokenizers;  // sources, as Discovery takes them
  std::vector<std::string> generators;
  std::string instance_id;
  SecurityOptions security;                            // the next four are made from it
  std::shared_ptr<const Authenticator> authenticator;  // null: OpenDoor
  int max_concurrent_streams = 1024;                   // of a gRPC connection, for its metric
  std::shared_ptr<const ProxiedPeers> proxied_peers;   // null: no proxy speaks for others
  std::shared_ptr<const TlsMaterial> worker_tls;
  std::shared_ptr<AccessLog> access_log;        // null: none
  std::shared_ptr<const CacheSalt> cache_salt;  // null: the client's own is used as it is
  const Tracer* tracer = nullptr;               // null: no tracing
  RequestLimits request_limits;
  Admission::Limits admission;
  PlacementQueue::Settings queue;
  CallSettings call;
  SessionSettings session;
  HealthSettings health;
  TokenizerSettings tokenizer;
  DiscoverySettings discovery;
  absl::Duration tick_interval = absl::Milliseconds(50);
  MetricsCompat metrics_compat;
};

// Everything between the transports and the workers: connections, catalog, queue, and the one
// thread that drives whatever depends on time. Thread-safe.
class Gateway {
 public:
  // After each change of the workers, from any thread, one call at a time.
  using OnCatalog = std::function<void(const ModelCatalog&)>;

  Gateway(const GatewayOptions& options, GatewayMetrics* metrics, OnCatalog on_catalog);
  // The calls must be over.
  ~Gateway();

  const GatewayOptions& options() const { return options_; }
  const CallServices& services() const { return services_; }
  GatewayMetrics& metrics() { return *metrics_; }
  TextService& text() { return tokenizers_; }
  Admission& admission() { return admission_; }
  KeyLimits& key_limits() { return key_limits_; }
  const Authenticator& authenticator() const { return *authenticator_; }
  std::shared_ptr<const ModelCatalog> catalog() const;

  // For Tick and ListRequests, until it is destroyed.
  void Register(const std::shared_ptr<GenerateCall>& call);

  int64_t in_flight() const { return admission_.in_flight(); }
  // What is read rather than counted: before each scrape.
  void UpdateMetrics();
  void FillStatus(v1::GetStatusResponse* status) const;
  void ListRequests(uint32_t max_requests, v1::ListRequestsResponse* response);

 private:
  std::unique_ptr<Discovery> Discover(const std::vector<std::string>& sources, Gauge* listed,
                                      std::function<void(const std::vector<std::string>&)> use);
  void Run();
  void Rebuild();
  std::vector<std::shared_ptr<GenerateCall>> Calls();

  const GatewayOptions options_;
  GatewayMetrics* const metrics_;
  const OnCatalog on_catalog_;
  CallServices services_;
  const std::shared_ptr<const Authenticator> authenticator_;
  Admission admission_;
  KeyLimits key_limits_;
  RetryBudget retries_;

  mutable absl::Mutex catalog_mutex_;
  std::shared_ptr<const ModelCatalog> catalog_ ABSL_GUARDED_BY(catalog_mutex_);
  absl::Mutex rebuild_mutex_ ABSL_ACQUIRED_BEFORE(catalog_mutex_);

  absl::Mutex calls_mutex_;
  std::vector<std::weak_ptr<GenerateCall>> calls_ ABSL_GUARDED_BY(calls_mutex_);

  TokenizerPool tokenizers_;
  SessionPool generators_;
  PlacementQueue queue_;

  StopSignal stop_;
  std::thread ticker_;
  // Last, so that they stop first.
  std::unique_ptr<Discovery> tokenizer_discovery_;
  std::unique_ptr<Discovery> generator_discovery_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_GATEWAY_H_
