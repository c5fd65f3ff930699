#ifndef QWENSERVE_SERVICES_COMMON_NET_ACCEPT_METRICS_H_
#define QWENSERVE_SERVICES_COMMON_NET_ACCEPT_METRICS_H_

#include "services/common/metrics/metrics.h"
#include "services/common/net/accept_loop.h"

namespace qwenserve {

// Brings a port's metrics of connections to what its accept loop has counted. `PortMetrics`:
// ServerMetrics or HttpMetrics.
template <typename PortMetrics>
void ReportConnections(const AcceptLoop::Stats& stats, PortMetrics& metrics) {
  metrics.connections.Set(static_cast<double>(stats.live));
  RaiseTo(metrics.accepted, static_cast<double>(stats.accepted));
  RaiseTo(metrics.refused_limit, static_cast<double>(stats.refused_limit));
  RaiseTo(metrics.refused_peer_limit, static_cast<double>(stats.refused_peer_limit));
  RaiseTo(metrics.refused_descriptors, static_cast<double>(stats.refused_descriptors));
  RaiseTo(metrics.refused_proxy_header, static_cast<double>(stats.refused_proxy_header));
}

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_NET_ACCEPT_METRICS_H_
