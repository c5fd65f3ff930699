#ifndef QWENSERVE_TOOLS_QWENCTL_LIVE_VIEW_H_
#define QWENSERVE_TOOLS_QWENCTL_LIVE_VIEW_H_

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "engine/base/json_reader.h"
#include "qwenserve/v1/admin.pb.h"
#include "tools/qwenctl/metrics_reader.h"

namespace qwenserve {

// A gateway at one moment. Without `metrics` there are no rates and no times.
struct LiveSample {
  absl::Time when;
  v1::GetStatusResponse status;
  std::optional<MetricsSnapshot> metrics;
};

// What `qwenctl top` shows: the state at `now`, rates and times since `before`.
Json LiveJson(const LiveSample& before, const LiveSample& now);
std::string LiveTable(const Json& live);

// What `qwenctl requests` shows.
Json RequestsJson(const v1::ListRequestsResponse& requests, absl::Time now);
std::string RequestsTable(const Json& requests);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_LIVE_VIEW_H_
