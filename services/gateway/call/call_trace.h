#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_CALL_TRACE_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_CALL_TRACE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "qwenserve/v1/generator.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"
#include "services/common/tracing/span.h"
#include "services/common/tracing/tracer.h"
#include "services/gateway/auth/authenticator.h"
#include "services/gateway/call/access_log.h"
#include "services/gateway/metrics/gateway_metrics.h"
#include "services/gateway/routing/loss_cause.h"

namespace qwenserve {

// The spans of a client's call; docs/debugging.md has their names and attributes. Without a tracer,
// and for a request that is not sampled, all of this is a few branches.

// The span of a call itself. With a tracer `caller->traceparent` becomes this call's own, for the
// workers and the access log; it is valid then, sampled or not.
Span BeginCallSpan(const Tracer* tracer, GatewayMetrics::Method method, absl::Time start,
                   Caller* caller);
// Ends it as the record says.
void EndCallSpan(const AccessRecord& record, const Caller& caller, Span* span);

// The part of it in which a tokenizer prepares the prompt; the request carries it to the worker.
Span BeginPrepareSpan(const Span& call, v1::PrepareRequest* request);
void EndPrepareSpan(const absl::Status& status, int64_t prompt_tokens, Span* span);

// The part in which a sample waits for a place at a replica.
inline Span BeginQueueSpan(const Span& call) { return call.Child("queue", Span::Kind::kInternal); }

// What one replica does for one sample: attempts after a failover stand beside each other.
class AttemptSpan {
 public:
  // `submit`, complete but for it, carries it to the replica.
  void Begin(const Span& call, const std::string& replica, v1::Submit* submit);
  // The replica's own word on the end.
  void SetFinish(v1::SequenceFinishReason reason);
  // `ids`: of the answer so far, those of earlier attempts included.
  void End(size_t ids);
  // The sample leaves the replica unfinished.
  void Lose(LossCause cause, size_t ids);

 private:
  Span span_;
  size_t resumed_ids_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_CALL_TRACE_H_
