#include "services/common/tracing/tracing.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/common/net/listen_socket.h"
#include "services/common/tls/grpc_tls.h"
#include "services/common/version.h"

namespace qwenserve {

void AddTracingFlags(Flags& flags, TracingOptions* options) {
  flags.Add("otlp-endpoint", &options->endpoint,
            "HOST:PORT of a collector for traces, by OTLP over gRPC; empty: no tracing");
  flags.Add("otlp-sample-ratio", &options->sample_ratio,
            "Share, 0 to 1, of the requests that come without a traceparent which are traced;\n"
            "with one, its sampled flag decides");
  flags.Add("otlp-tls-ca", &options->tls.ca,
            "Connect to the collector with TLS: one of these must have signed its certificate");
  flags.Add("otlp-tls-cert", &options->tls.cert,
            "Our own certificate for a collector that asks for one");
  flags.Add("otlp-tls-key", &options->tls.key, "Its private key");
  flags.Add("otlp-tls-names", &options->tls.peer_names,
            "One of these DNS names or URIs must be in the collector's certificate");
}

absl::StatusOr<std::unique_ptr<Tracing>> Tracing::Start(const TracingOptions& options,
                                                        absl::string_view role,
                                                        const std::string& instance_id,
                                                        Metrics& metrics) {
  if (!(options.sample_ratio >= 0 && options.sample_ratio <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--otlp-sample-ratio is ", options.sample_ratio, ", must be 0 to 1"));
  }
  const bool other_tls =
      !options.tls.cert.empty() || !options.tls.key.empty() || !options.tls.peer_names.empty();
  if (options.tls.ca.empty() && other_tls) {
    return absl::InvalidArgumentError("the other --otlp-tls flags need --otlp-tls-ca");
  }
  if (options.endpoint.empty()) return std::unique_ptr<Tracing>();
  if (absl::Status status = CheckHostPort(options.endpoint); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--otlp-endpoint: ", status.message()));
  }
  std::unique_ptr<TlsMaterial> tls;
  if (!options.tls.ca.empty()) {
    QS_ASSIGN_OR_RETURN(tls, TlsMaterial::Load(options.tls, "otlp_tls", absl::Seconds(1), metrics));
  }
  return std::unique_ptr<Tracing>(new Tracing(options, role, instance_id, std::move(tls), metrics));
}

Tracing::Tracing(const TracingOptions& options, absl::string_view role,
                 const std::string& instance_id, std::unique_ptr<TlsMaterial> tls, Metrics& metrics)
    : tls_(std::move(tls)),
      exporter_(options.endpoint, tls_ == nullptr ? nullptr : TlsClientCredentials(*tls_),
                {{"service.namespace", "qwenserve"},
                 {"service.name", absl::StrCat("qwenserve-", role)},
                 {"service.instance.id", instance_id},
                 {"service.version", std::string(Version())}},
                {}, metrics),
      tracer_(&exporter_, options.sample_ratio) {}

}  // namespace qwenserve
