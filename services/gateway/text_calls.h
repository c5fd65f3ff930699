#ifndef QWENSERVE_SERVICES_GATEWAY_TEXT_CALLS_H_
#define QWENSERVE_SERVICES_GATEWAY_TEXT_CALLS_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "qwenserve/v1/inference.pb.h"
#include "services/gateway/admission/admission.h"
#include "services/gateway/auth/authenticator.h"
#include "services/gateway/call/call_trace.h"
#include "services/gateway/call/random_draws.h"
#include "services/gateway/gateway.h"
#include "services/gateway/metrics/gateway_metrics.h"

namespace qwenserve {

// The small calls of both protocols, from their validation to their metrics.

// What each of them has: a place at the gateway's door, and exactly one end. Thread-compatible.
class SmallCall {
 public:
  SmallCall(Gateway& gateway, GatewayMetrics::Method method, Caller caller)
      : gateway_(gateway), method_(method), caller_(std::move(caller)), start_(MonotonicNow()) {
    span_ = BeginCallSpan(gateway_.services().tracer, method_, start_, &caller_);
  }

  const Caller& caller() const { return caller_; }
  const std::string& id() const { return id_; }
  // For the access log.
  void SetModel(const std::string& model) { model_ = model; }
  void SetTokens(uint32_t tokens) { tokens_ = tokens; }
  Span& span() { return span_; }
  // The caller's refusal, or RESOURCE_EXHAUSTED: its key's limits, or the gateway's.
  absl::Status Enter(size_t bytes);
  // Counts the call and gives its place back.
  void End(const absl::Status& status);

 private:
  Gateway& gateway_;
  const GatewayMetrics::Method method_;
  Caller caller_;
  const std::string id_ = RandomId("req-");
  std::string model_;
  uint32_t tokens_ = 0;
  const absl::Time start_;
  Span span_;
  KeyLimits::Ticket key_ticket_;
  Admission::Ticket ticket_;
};

// The caller may be refused, and a request may be the error of its parsing: both end so. `done` is
// called exactly once, from any thread, perhaps from within. `gateway` outlives it.
void RunTokenize(Gateway& gateway, GatewayMetrics::Method method, Caller caller,
                 absl::Time deadline, const absl::StatusOr<v1::TokenizeRequest>& request,
                 std::function<void(absl::StatusOr<v1::TokenizeResponse>)> done);
// `given_up` is asked now and then whether anybody still waits.
void RunDetokenize(Gateway& gateway, GatewayMetrics::Method method, Caller caller,
                   std::function<bool()> given_up,
                   const absl::StatusOr<v1::DetokenizeTextRequest>& request,
                   std::function<void(absl::StatusOr<std::string>)> done);
// The models that the caller may use; NOT_FOUND for others.
absl::StatusOr<std::vector<v1::Model>> RunListModels(Gateway& gateway,
                                                     GatewayMetrics::Method method, Caller caller);
absl::StatusOr<v1::Model> RunGetModel(Gateway& gateway, GatewayMetrics::Method method,
                                      Caller caller, const std::string& name);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_TEXT_CALLS_H_
