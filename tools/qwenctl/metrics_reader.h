#ifndef QWENSERVE_TOOLS_QWENCTL_METRICS_READER_H_
#define QWENSERVE_TOOLS_QWENCTL_METRICS_READER_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// The metrics of a process at one moment.
class MetricsSnapshot {
 public:
  // Prometheus' text format 0.0.4. Lines that are none of it are left out.
  static MetricsSnapshot Parse(absl::string_view text);
  // GET /metrics. UNAVAILABLE when nobody answers in time.
  static absl::StatusOr<MetricsSnapshot> Read(const std::string& address);

  // The sum of all series of this name; 0 without one.
  double Sum(const std::string& name) const;
  // Seconds that `fraction` of what histogram `name` has counted since `before` are not above, by
  // its buckets, interpolated; NaN when nothing was counted.
  double Quantile(const std::string& name, double fraction, const MetricsSnapshot& before) const;

 private:
  // Upper end -> how many are not above it.
  std::map<double, double> Buckets(const std::string& name) const;

  std::map<std::string, double> series_;  // name{labels} -> value
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_METRICS_READER_H_
