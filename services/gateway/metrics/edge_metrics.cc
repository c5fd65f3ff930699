#include "services/gateway/metrics/edge_metrics.h"

#include "services/common/metrics/metric_builders.h"

namespace qwenserve {
namespace {

constexpr char kHttpRefusedName[] = "qwenserve_http_connections_refused_total";
constexpr char kAccessLinesName[] = "qwenserve_gateway_access_log_lines_total";
constexpr char kAccessLinesHelp[] = "Lines of the access log, by what became of them";

}  // namespace

AuthMetrics::AuthMetrics(Metrics& metrics)
    : keys(AddGauge(metrics, "qwenserve_gateway_api_keys", "API keys in force")),
      reloads_ok(ReloadCounter(metrics, "api_keys", "ok")),
      reloads_failed(ReloadCounter(metrics, "api_keys", "failed")) {
  for (int i = 0; i < kNumFailures; ++i) {
    failures[i] = &AddCounter(metrics, "qwenserve_gateway_auth_failures_total",
                              "Requests without a valid API key, by what is wrong with it",
                              {{"reason", kFailureNames[i]}});
  }
}

AccessLogMetrics::AccessLogMetrics(Metrics& metrics)
    : written(AddCounter(metrics, kAccessLinesName, kAccessLinesHelp, {{"result", "written"}})),
      dropped(AddCounter(metrics, kAccessLinesName, kAccessLinesHelp, {{"result", "dropped"}})) {}

HttpMetrics::HttpMetrics(Metrics& metrics)
    : connections(AddGauge(metrics, "qwenserve_http_connections", "Open connections")),
      requests_in_flight(AddGauge(metrics, "qwenserve_http_requests_in_flight",
                                  "Requests received whose answer is not complete")),
      accepted(
          AddCounter(metrics, "qwenserve_http_connections_accepted_total", "Connections accepted")),
      refused_limit(AddCounter(metrics, kHttpRefusedName, kRefusedHelp, {{"cause", "limit"}})),
      refused_peer_limit(
          AddCounter(metrics, kHttpRefusedName, kRefusedHelp, {{"cause", "peer_limit"}})),
      refused_descriptors(
          AddCounter(metrics, kHttpRefusedName, kRefusedHelp, {{"cause", "descriptors"}})),
      refused_proxy_header(
          AddCounter(metrics, kHttpRefusedName, kRefusedHelp, {{"cause", "proxy_header"}})),
      requests(AddCounter(metrics, "qwenserve_http_requests_total", "Complete requests received")),
      malformed(AddCounter(metrics, "qwenserve_http_malformed_requests_total",
                           "Requests refused because they are not plain HTTP/1.1")),
      handshakes_failed(AddCounter(metrics, "qwenserve_http_tls_handshakes_failed_total",
                                   "Connections without TLS, or a certificate that was asked for")),
      timeouts(AddCounter(metrics, "qwenserve_http_timeouts_total",
                          "Requests that were not sent, or answers not read, in time")),
      abandoned(AddCounter(metrics, "qwenserve_http_abandoned_requests_total",
                           "Requests whose client left before the end of the answer")) {}

}  // namespace qwenserve
