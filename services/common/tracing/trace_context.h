#ifndef QWENSERVE_SERVICES_COMMON_TRACING_TRACE_CONTEXT_H_
#define QWENSERVE_SERVICES_COMMON_TRACING_TRACE_CONTEXT_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace qwenserve {

// Where in which trace something belongs: what a W3C traceparent says
// (https://www.w3.org/TR/trace-context/). Ids of zeros mean none.
struct TraceContext {
  uint64_t trace_high = 0;
  uint64_t trace_low = 0;
  uint64_t span = 0;
  bool sampled = false;

  bool valid() const { return (trace_high | trace_low) != 0 && span != 0; }
};

// Not valid() unless `value` is a well-formed traceparent. What a version above 00 may add after a
// further dash is passed over.
TraceContext ParseTraceparent(absl::string_view value);

// As version 00: "00-TRACE ID-SPAN ID-01", the last 00 when it is not sampled.
std::string FormatTraceparent(const TraceContext& context);

// The 32 hexadecimal digits by which logs and traces are joined; empty when not valid().
std::string TraceIdText(const TraceContext& context);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_TRACING_TRACE_CONTEXT_H_
