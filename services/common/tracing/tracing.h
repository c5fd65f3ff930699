#ifndef QWENSERVE_SERVICES_COMMON_TRACING_TRACING_H_
#define QWENSERVE_SERVICES_COMMON_TRACING_TRACING_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/common/flags.h"
#include "services/common/metrics/metrics.h"
#include "services/common/tls/tls_material.h"
#include "services/common/tracing/span_exporter.h"
#include "services/common/tracing/tracer.h"

namespace qwenserve {

struct TracingOptions {
  std::string endpoint;     // HOST:PORT of a collector; empty: no tracing
  double sample_ratio = 1;  // of requests without a trace of their caller's
  TlsFiles tls;             // without a ca: plaintext
};

void AddTracingFlags(Flags& flags, TracingOptions* options);

// The tracing of a process.
class Tracing {
 public:
  // INVALID_ARGUMENT naming the flag. `role`: gateway, tokenizer or generator. `metrics` outlives
  // it. Null when it is off. The collector need not be there.
  static absl::StatusOr<std::unique_ptr<Tracing>> Start(const TracingOptions& options,
                                                        absl::string_view role,
                                                        const std::string& instance_id,
                                                        Metrics& metrics);

  const Tracer& tracer() const { return tracer_; }
  // Of the last spans, not longer than `limit`.
  void Flush(absl::Duration limit) { exporter_.Shutdown(limit); }

 private:
  Tracing(const TracingOptions& options, absl::string_view role, const std::string& instance_id,
          std::unique_ptr<TlsMaterial> tls, Metrics& metrics);

  const std::unique_ptr<TlsMaterial> tls_;  // null: plaintext
  SpanExporter exporter_;
  const Tracer tracer_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_TRACING_TRACING_H_
