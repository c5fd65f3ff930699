#include "services/gateway/metrics/gateway_metrics.h"

#include "services/common/metrics/metric_builders.h"

namespace qwenserve {
namespace {

constexpr const char* kMethodNames[GatewayMetrics::kNumMethods] = {
    "Chat",         "StreamChat",     "Complete",       "StreamComplete",
    "Tokenize",     "Detokenize",     "ListModels",     "GetModel",
    "HttpChat",     "HttpStreamChat", "HttpComplete",   "HttpStreamComplete",
    "HttpTokenize", "HttpDetokenize", "HttpListModels", "HttpGetModel"};
constexpr char kWorkersName[] = "qwenserve_gateway_workers_ready";
constexpr char kWorkersHelp[] = "Workers that can be given requests";
constexpr char kOutName[] = "qwenserve_gateway_generators_out";
constexpr char kOutHelp[] = "Generators that get no work for now, by why";
constexpr char kEjectedName[] = "qwenserve_gateway_generator_ejections_total";
constexpr char kEjectedHelp[] = "Times that a generator was taken out of work, by why";
constexpr char kListedName[] = "qwenserve_gateway_workers_listed";
constexpr char kListedHelp[] = "Addresses that discovery has found";
constexpr char kDiscoveryName[] = "qwenserve_gateway_discovery_failures_total";
constexpr char kDiscoveryHelp[] = "Look-ups that gave nothing usable; the last good list stays";
constexpr char kPlacedName[] = "qwenserve_gateway_placements_total";
constexpr char kPlacedHelp[] = "Requests given to a generator, by why to that one";
constexpr char kLostName[] = "qwenserve_gateway_workers_lost_total";
constexpr char kLostHelp[] = "Workers that vanished or stalled";

}  // namespace

const char* GatewayMetrics::MethodName(Method method) { return kMethodNames[method]; }

GatewayMetrics::GatewayMetrics(Metrics& metrics)
    : in_flight(AddGauge(metrics, "qwenserve_gateway_requests_in_flight", "Requests in flight")),
      waiting(AddGauge(metrics, "qwenserve_gateway_requests_waiting",
                       "Requests in flight that wait for a replica with room")),
      peers_at_stream_limit(
          AddCounter(metrics, "qwenserve_gateway_peers_at_stream_limit_total",
                     "Generations that took the last place of their gRPC connection")),
      tokenizers_ready(AddGauge(metrics, kWorkersName, kWorkersHelp, {{"role", "tokenizer"}})),
      generators_ready(AddGauge(metrics, kWorkersName, kWorkersHelp, {{"role", "generator"}})),
      tokenizers_lost(AddCounter(metrics, kLostName, kLostHelp, {{"role", "tokenizer"}})),
      generators_lost(AddCounter(metrics, kLostName, kLostHelp, {{"role", "generator"}})),
      generators_ejected(AddGauge(metrics, kOutName, kOutHelp, {{"state", "ejected"}})),
      generators_breaker_open(AddGauge(metrics, kOutName, kOutHelp, {{"state", "breaker_open"}})),
      ejected_errors(AddCounter(metrics, kEjectedName, kEjectedHelp, {{"reason", "errors"}})),
      ejected_latency(AddCounter(metrics, kEjectedName, kEjectedHelp, {{"reason", "latency"}})),
      breakers_opened(AddCounter(metrics, kEjectedName, kEjectedHelp, {{"reason", "breaker"}})),
      tokenizers_listed(AddGauge(metrics, kListedName, kListedHelp, {{"role", "tokenizer"}})),
      generators_listed(AddGauge(metrics, kListedName, kListedHelp, {{"role", "generator"}})),
      dns_failures(AddCounter(metrics, kDiscoveryName, kDiscoveryHelp, {{"source", "dns"}})),
      file_failures(AddCounter(metrics, kDiscoveryName, kDiscoveryHelp, {{"source", "file"}})),
      placed_known_prefix(
          AddCounter(metrics, kPlacedName, kPlacedHelp, {{"reason", "known_prefix"}})),
      placed_home(AddCounter(metrics, kPlacedName, kPlacedHelp, {{"reason", "home"}})),
      placed_least_load(AddCounter(metrics, kPlacedName, kPlacedHelp, {{"reason", "least_load"}})),
      failover_gap(AddHistogram(metrics, "qwenserve_gateway_failover_gap_seconds",
                                "From an answer's last token at the replica that it left to its "
                                "first one elsewhere",
                                FirstTokenSeconds())),
      retry_budget_exhausted(AddCounter(metrics, "qwenserve_gateway_retry_budget_exhausted_total",
                                        "Refusals by replicas that were not retried elsewhere")),
      suspected_poison(AddCounter(metrics, "qwenserve_gateway_suspected_poison_total",
                                  "Requests ended because two replicas were lost with them")),
      models_(metrics) {
  const char* const kSheds[kNumSheds] = {
      "requests", "bytes",          "queue_full",   "displaced",         "wait",
      "deadline", "quota_requests", "quota_tokens", "quota_concurrency", "slow_consumer"};
  auto& sheds_family = Counters(metrics, "qwenserve_gateway_sheds_total",
                                "Requests turned away or ended for want of room, by cause");
  for (const char* cause : kSheds) sheds.push_back(&sheds_family.Add({{"cause", cause}}));
  for (const char* cause :
       {"ended", "silent", "stalled", "failed", "draining", "refused", "unreachable", "paused"}) {
    failovers.push_back(&AddCounter(metrics, "qwenserve_gateway_failovers_total",
                                    "Samples that went on at another replica, by what parted them "
                                    "from the last one",
                                    {{"cause", cause}}));
  }
  for (const char* stage : {"preparing", "waiting", "running"}) {
    cancels.push_back(&AddCounter(metrics, "qwenserve_gateway_cancels_total",
                                  "Generations whose client left before the end, by how far they "
                                  "were",
                                  {{"stage", stage}}));
  }
  auto& requests_family =
      Counters(metrics, "qwenserve_gateway_requests_total", "Requests ended, by method and status");
  for (const char* method : kMethodNames) {
    requests.emplace_back(requests_family, MetricLabels{{"method", method}});
    duration.push_back(&AddHistogram(metrics, "qwenserve_gateway_request_duration_seconds",
                                     "From arrival to the end", RequestSeconds(),
                                     {{"method", method}}));
  }
}

}  // namespace qwenserve
