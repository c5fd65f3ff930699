#ifndef QWENSERVE_SERVICES_COMMON_TRACING_TRACER_H_
#define QWENSERVE_SERVICES_COMMON_TRACING_TRACER_H_

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "opentelemetry/proto/trace/v1/trace.pb.h"
#include "services/common/clock.h"
#include "services/common/tracing/span.h"
#include "services/common/tracing/trace_context.h"

namespace qwenserve {

// Where ended spans go.
class SpanSink {
 public:
  virtual ~SpanSink() = default;
  // Must not wait for anything. Any thread.
  virtual void Add(opentelemetry::proto::trace::v1::Span span) = 0;
};

// Begins the spans of requests, and decides which requests have any: those whose caller has sampled
// its own trace, and a share of those that come without a trace. Thread-safe; outlives its spans.
class Tracer {
 public:
  // `sink` outlives it. `sample_ratio`: 0 to 1, of requests without a trace, decided by the trace
  // id alone. Span times are of `clock`; what is sent is a date.
  Tracer(SpanSink* sink, double sample_ratio, Clock clock = MonotonicNow);

  struct Request {
    Span span;             // records nothing when the request is not sampled
    TraceContext context;  // for those that work for the request: always valid
  };
  // A request that arrived at `start`. `traceparent`: the caller's, empty or malformed: none.
  Request Begin(const char* name, absl::string_view traceparent, absl::Time start) const;

 private:
  friend class Span;

  bool Sample(const TraceContext& context) const;

  SpanSink* const sink_;
  const uint64_t sampled_below_;  // of the low half of a trace id, without its last bit
  const Clock clock_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_TRACING_TRACER_H_
