#ifndef QWENSERVE_SERVICES_GATEWAY_METRICS_EDGE_METRICS_H_
#define QWENSERVE_SERVICES_GATEWAY_METRICS_EDGE_METRICS_H_

#include <array>

#include "services/common/metrics/metrics.h"

namespace qwenserve {

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

struct AccessLogMetrics {
  explicit AccessLogMetrics(Metrics& metrics);
  Counter& written;
  Counter& dropped;
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

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_METRICS_EDGE_METRICS_H_
