#include "services/gateway/gateway_role.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/common/digest.h"
#include "services/common/net/accept_metrics.h"
#include "services/common/tls/grpc_tls.h"
#include "services/gateway/auth/api_keys.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

absl::Status CheckLimits(const GatewayOptions& options) {
  const std::pair<const char*, int64_t> kCounts[] = {
      {"max-requests", options.admission.max_requests},
      {"max-inflight-bytes", options.admission.max_bytes},
      {"max-waiting", options.queue.max_waiting},
      {"credit-window", options.call.credit_window}};
  for (const auto& [flag, value] : kCounts) {
    if (value >= 1) continue;
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " is ", value, ", not at least 1"));
  }
  // All of it travels in one credit.
  if (options.call.credit_window > (1 << 20)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--credit-window is ", options.call.credit_window, ", not at most ", 1 << 20));
  }
  const std::pair<const char*, absl::Duration> kTimes[] = {
      {"max-request-time", options.call.max_request_time},
      {"slow-client-timeout", options.call.slow_client_timeout}};
  for (const auto& [flag, value] : kTimes) {
    if (value > absl::ZeroDuration()) continue;
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " is not above 0"));
  }
  return absl::OkStatus();
}

// Keys and secrets, from their files.
absl::Status Secure(GatewayOptions* options, Metrics& metrics) {
  const SecurityOptions& security = options->security;
  const bool keys = !security.api_keys.empty();
  if (keys) {
    QS_ASSIGN_OR_RETURN(options->authenticator,
                        ApiKeys::Create(security.api_keys, security.reload_interval, metrics));
  }
  if (!security.worker_tls.ca.empty()) {
    QS_ASSIGN_OR_RETURN(options->worker_tls, TlsMaterial::Load(security.worker_tls, "worker_tls",
                                                               security.reload_interval, metrics));
    options->session.credentials = TlsClientCredentials(*options->worker_tls);
    options->tokenizer.credentials = TlsClientCredentials(*options->worker_tls);
  } else if (security.worker_tls.enabled() || !security.worker_tls.peer_names.empty()) {
    return absl::InvalidArgumentError("the other --worker-tls flags need --worker-tls-ca");
  }
  if (security.access_log != "off") {
    QS_ASSIGN_OR_RETURN(options->access_log, AccessLog::Open(security.access_log, metrics));
  }
  if (!security.cache_salt_secret_file.empty()) {
    QS_ASSIGN_OR_RETURN(CacheSalt salt, CacheSalt::FromFile(security.cache_salt_secret_file));
    options->cache_salt = std::make_shared<const CacheSalt>(std::move(salt));
  } else if (keys) {
    spdlog::warn(
        "no --cache-salt-secret-file: tenants are kept apart, but share no cached prompts over "
        "several gateways or a restart");
    options->cache_salt = std::make_shared<const CacheSalt>(RandomBytes(32));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status TrustProxies(const std::vector<std::string>& networks, absl::string_view protocol,
                          ServerOptions* server, GatewayOptions* gateway, HttpEdgeOptions* http) {
  if (networks.empty() && protocol != "off") {
    return absl::InvalidArgumentError("--proxy-protocol needs --trusted-proxies");
  }
  auto list = NetworkList::Parse(networks);
  if (!list.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--trusted-proxies: ", list.status().message()));
  }
  server->accept.trusted_proxies = http->server.accept.trusted_proxies = *list;
  server->accept.proxy_protocol = protocol == "grpc" || protocol == "both";
  http->server.accept.proxy_protocol = protocol == "http" || protocol == "both";
  gateway->proxied_peers = server->accept.proxied = std::make_shared<ProxiedPeers>();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ServerRole>> GatewayRole::Create(GatewayOptions options,
                                                                const HttpEdgeOptions& http,
                                                                ServerContext& context) {
  for (const auto* list : {&options.tokenizers, &options.generators}) {
    for (const std::string& source : *list) QS_RETURN_IF_ERROR(CheckWorkerSource(source));
  }
  QS_RETURN_IF_ERROR(CheckDnsServer(options.discovery.dns.server));
  QS_RETURN_IF_ERROR(CheckLimits(options));
  QS_RETURN_IF_ERROR(Secure(&options, context.metrics()));
  options.instance_id = context.instance_id();
  options.tracer = context.tracer();
  UseMetricsCompat(options.metrics_compat, context.metrics());
  auto role = std::make_unique<GatewayRole>(options, http.api, context);
  if (!http.listen.empty()) QS_RETURN_IF_ERROR(role->StartHttp(http));
  // Last, for nobody takes the hook back from a role that could not start.
  context.metrics().OnScrape([raw = role.get()] { raw->gateway_.UpdateMetrics(); });
  return role;
}

GatewayRole::GatewayRole(const GatewayOptions& options, const OpenAiOptions& api,
                         ServerContext& context)
    : context_(context),
      metrics_(context.metrics()),
      gateway_(options, &metrics_, [this](const ModelCatalog& catalog) { OnCatalog(catalog); }),
      service_(&gateway_, options.proxied_peers),
      http_metrics_(context.metrics()),
      api_(&gateway_, api) {}

absl::Status GatewayRole::StartHttp(const HttpEdgeOptions& http) {
  QS_ASSIGN_OR_RETURN(ListenSocket socket, BindSocket(http.listen));
  // Who asks for TLS must not find keys and prompts in the clear on another port.
  HttpServer::Options server = http.server;
  server.limits.write_timeout = absl::ToChronoMilliseconds(
      std::min(gateway_.options().call.slow_client_timeout, absl::Hours(24)));
  QS_ASSIGN_OR_RETURN(
      HostPolicy policy,
      HostPolicy::Make({http.api.allowed_hosts, http.api.allowed_origins, socket.address,
                        socket.loopback, !gateway_.options().security.api_keys.empty()}));
  api_.SetHostPolicy(std::move(policy));
  server.tls = context_.tls();
  QS_ASSIGN_OR_RETURN(http_, HttpServer::Start(std::move(socket), server, &api_));
  context_.metrics().OnScrape([this] { UpdateHttpMetrics(); });
  context_.Announce("http", http_->address());
  return absl::OkStatus();
}

void GatewayRole::UpdateHttpMetrics() {
  ReportConnections(http_->accept_stats(), http_metrics_);
  const HttpCounters& counters = http_->counters();
  http_metrics_.requests_in_flight.Set(static_cast<double>(counters.busy));
  RaiseTo(http_metrics_.requests, static_cast<double>(counters.requests));
  RaiseTo(http_metrics_.malformed, static_cast<double>(counters.malformed));
  RaiseTo(http_metrics_.handshakes_failed, static_cast<double>(counters.handshakes_failed));
  RaiseTo(http_metrics_.timeouts, static_cast<double>(counters.timeouts));
  RaiseTo(http_metrics_.abandoned, static_cast<double>(counters.abandoned));
}

void GatewayRole::OnDrain(absl::Duration time_left) {
  api_.Drain();
  if (http_ != nullptr) http_->Drain();
}

void GatewayRole::OnStopAccepting() {
  if (http_ != nullptr) http_->StopAccepting();
}

int64_t GatewayRole::InFlight() {
  // A request of HTTP is in both while it runs; 0 only when nothing of either is left.
  const int64_t http = http_ == nullptr ? 0 : http_->in_flight();
  return std::max(gateway_.in_flight(), http);
}

void GatewayRole::CloseStreams() {
  if (http_ != nullptr) http_->CloseAll();
}

void GatewayRole::OnCatalog(const ModelCatalog& catalog) {
  std::set<std::string> gone = announced_;
  // Health asks for no key, so with keys it knows the process only: names of models are for those
  // who may use them.
  const bool names = gateway_.options().security.api_keys.empty();
  for (const v1::Model& model : catalog.models()) {
    if (!names) break;
    gone.erase(model.id());
    announced_.insert(model.id());
    context_.SetServing(model.id(), catalog.Resolve(model.id()).ok());
  }
  for (const std::string& model : gone) context_.SetServing(model, false);
  // Ready stays: a gateway without workers still gives the right answer, UNAVAILABLE with a hint
  // when to come back, and taking all gateways out of the balancer would give none.
  if (catalog.AnyServed()) context_.SetReady(true);
}

}  // namespace qwenserve
