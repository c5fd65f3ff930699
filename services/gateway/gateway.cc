#include "services/gateway/gateway.h"

#include <utility>

namespace qwenserve {

Gateway::Gateway(const GatewayOptions& options, GatewayMetrics* metrics, OnCatalog on_catalog)
    : options_(options),
      metrics_(metrics),
      on_catalog_(std::move(on_catalog)),
      authenticator_(options.authenticator != nullptr ? options.authenticator
                                                      : std::make_shared<OpenDoor>()),
      admission_(options.admission, metrics),
      key_limits_(MonotonicNow, metrics),
      catalog_(std::make_shared<const ModelCatalog>(std::vector<KnownTokenizer>(),
                                                    std::vector<KnownGenerator>())),
      tokenizers_(
          options.tokenizer, [this] { Rebuild(); }, MonotonicNow, metrics),
      generators_(
          options.session, options.health, options.instance_id,
          {[this] { Rebuild(); }, [this] { tokenizers_.Flush(); }, [this] { queue_.Pump(); },
           [this](const v1::ServerHello& hello, const ReplicaWork& work) {
             queue_.OnWork(hello.model(), hello.tokenizer_hash(), work);
           }},
          MonotonicNow, metrics),
      queue_([this](const PlacementRequest& request) { return generators_.Candidates(request); },
             options.queue, MonotonicNow, StableHash(0, options.instance_id), metrics) {
  services_.admission = &admission_;
  services_.key_limits = &key_limits_;
  services_.text = &tokenizers_;
  services_.placer = &queue_;
  services_.catalog = [this] { return catalog(); };
  services_.metrics = metrics;
  services_.retries = &retries_;
  services_.clock = MonotonicNow;
  services_.settings = options.call;
  services_.access_log = options.access_log.get();
  services_.cache_salt = options.cache_salt.get();
  services_.tracer = options.tracer;

  ticker_ = std::thread([this] { Run(); });
  tokenizer_discovery_ =
      Discover(options.tokenizers, &metrics->tokenizers_listed,
               [this](const std::vector<std::string>& found) { tokenizers_.SetAddresses(found); });
  generator_discovery_ =
      Discover(options.generators, &metrics->generators_listed,
               [this](const std::vector<std::string>& found) { generators_.SetAddresses(found); });
}

std::unique_ptr<Discovery> Gateway::Discover(
    const std::vector<std::string>& sources, Gauge* listed,
    std::function<void(const std::vector<std::string>&)> use) {
  Discovery::Hooks hooks;
  hooks.on_targets = [listed, use = std::move(use)](const std::vector<std::string>& found) {
    listed->Set(static_cast<double>(found.size()));
    use(found);
  };
  hooks.on_dns_failure = [this] { metrics_->dns_failures.Increment(); };
  hooks.on_file_failure = [this] { metrics_->file_failures.Increment(); };
  return std::make_unique<Discovery>(sources, options_.discovery, std::move(hooks));
}

Gateway::~Gateway() {
  tokenizer_discovery_.reset();
  generator_discovery_.reset();
  stop_.Stop();
  ticker_.join();
  // Each may still call into the other until its own streams are gone.
  generators_.Shutdown();
  tokenizers_.Shutdown();
}

std::shared_ptr<const ModelCatalog> Gateway::catalog() const {
  absl::MutexLock lock(&catalog_mutex_);
  return catalog_;
}

void Gateway::Register(const std::shared_ptr<GenerateCall>& call) {
  absl::MutexLock lock(&calls_mutex_);
  calls_.push_back(call);
}

std::vector<std::shared_ptr<GenerateCall>> Gateway::Calls() {
  std::vector<std::shared_ptr<GenerateCall>> alive;
  absl::MutexLock lock(&calls_mutex_);
  size_t kept = 0;
  for (std::weak_ptr<GenerateCall>& weak : calls_) {
    if (auto call = weak.lock()) {
      alive.push_back(std::move(call));
      std::swap(calls_[kept++], weak);
    }
  }
  calls_.resize(kept);
  return alive;
}

void Gateway::Run() {
  do {
    const absl::Time now = MonotonicNow();
    tokenizers_.Tick(now);
    generators_.Tick(now);
    queue_.Tick(now);
    for (const auto& call : Calls()) call->Tick(now);
    metrics_->in_flight.Set(static_cast<double>(admission_.in_flight()));
    metrics_->waiting.Set(static_cast<double>(queue_.waiting()));
  } while (!stop_.StoppedWithin(options_.tick_interval));
}

void Gateway::Rebuild() {
  {
    absl::MutexLock rebuild(&rebuild_mutex_);
    auto next = std::make_shared<const ModelCatalog>(tokenizers_.Known(), generators_.Known());
    {
      absl::MutexLock lock(&catalog_mutex_);
      catalog_ = next;
    }
    // So that a model's series begin at 0.
    for (const v1::Model& model : next->models()) metrics_->OfModel(model.id());
    on_catalog_(*next);
  }
  queue_.OnReplicas();
}

void Gateway::UpdateMetrics() { metrics_->SetLoads(generators_.Loads(), queue_.depths()); }

void Gateway::FillStatus(v1::GetStatusResponse* status) const {
  for (const v1::Model& model : catalog()->models()) status->add_models(model.id());
  tokenizers_.FillStatus(status);
  generators_.FillStatus(status);
  status->set_requests_in_flight(admission_.in_flight());
}

void Gateway::ListRequests(uint32_t max_requests, v1::ListRequestsResponse* response) {
  uint64_t total = 0;
  for (const auto& call : Calls()) {
    v1::RequestSummary summary;
    if (!call->Summarize(&summary)) continue;
    ++total;
    if (static_cast<uint32_t>(response->requests_size()) < max_requests) {
      *response->add_requests() = std::move(summary);
    }
  }
  response->set_total(total);
}

}  // namespace qwenserve
