#ifndef QWENSERVE_SERVICES_COMMON_TRACING_SPAN_EXPORTER_H_
#define QWENSERVE_SERVICES_COMMON_TRACING_SPAN_EXPORTER_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/security/credentials.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.grpc.pb.h"
#include "services/common/log_limiter.h"
#include "services/common/metrics/metrics.h"
#include "services/common/tracing/tracer.h"
#include "services/common/tracing/tracing_metrics.h"

namespace qwenserve {

// Sends spans to a collector by OTLP over gRPC (https://opentelemetry.io/docs/specs/otlp/), in
// batches and from a thread of its own. What does not fit into the queue while the collector is
// slow or away is dropped and counted: nobody ever waits for it. Thread-safe.
class SpanExporter final : public SpanSink {
 public:
  struct Settings {
    size_t max_queued = 8192;  // spans that wait; about 3 KB each
    size_t max_batch = 512;
    absl::Duration interval = absl::Seconds(1);  // between batches that are not full
    absl::Duration timeout = absl::Seconds(10);  // of one try
    int max_tries = 5;                           // of a batch; then it is dropped
    absl::Duration first_backoff = absl::Seconds(1);
    absl::Duration longest_backoff = absl::Seconds(30);
  };
  // What all spans of this process say of it, such as {"service.name", "qwenserve-gateway"}.
  using Resource = std::vector<std::pair<std::string, std::string>>;

  // `endpoint`: HOST:PORT. `credentials`: null for plaintext. `metrics` outlives it.
  SpanExporter(const std::string& endpoint, std::shared_ptr<grpc::ChannelCredentials> credentials,
               const Resource& resource, const Settings& settings, Metrics& metrics);
  // Drops what still waits.
  ~SpanExporter() override;

  void Add(opentelemetry::proto::trace::v1::Span span) override;

  // Sends what waits, each batch once, and ends; not later than after `limit`. What is added
  // meanwhile or afterwards may be dropped.
  void Shutdown(absl::Duration limit);

 private:
  using Batch = opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
  enum class Outcome { kSent, kTryAgain, kRefused };

  void Run();
  // Waits for spans. False: it is over.
  bool Take(Batch* batch);
  void Send(const Batch& batch, int64_t spans);
  Outcome Try(const Batch& batch, int64_t spans);
  // False when it is not worth another try, since the exporter ends.
  bool WaitFor(absl::Duration backoff);

  // Makes the next try use a connection of its own.
  void Reconnect();

  const std::string endpoint_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  const Settings settings_;
  TracingMetrics metrics_;
  LogLimiter failures_{absl::Minutes(1)};
  Batch empty_batch_;  // resource and scope
  std::unique_ptr<opentelemetry::proto::collector::trace::v1::TraceService::Stub> stub_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::deque<opentelemetry::proto::trace::v1::Span> queue_;
  bool ending_ = false;                    // what waits is still sent
  bool ended_ = false;                     // nothing is sent any more
  bool done_ = false;                      // the thread has nothing more to do
  grpc::ClientContext* trying_ = nullptr;  // of the call under way

  std::thread thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_TRACING_SPAN_EXPORTER_H_
