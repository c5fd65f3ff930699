#ifndef QWENSERVE_SERVICES_GATEWAY_TEXT_CALLS_H_
#define QWENSERVE_SERVICES_GATEWAY_TEXT_CALLS_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "qwenserve/v1/inference.pb.h"
#include "services/common/metrics.h"
#include "services/gateway/admission.h"
#include "services/gateway/gateway.h"

namespace qwenserve {

// The small calls of both protocols, from their validation to their metrics.

// What each of them has: a place at the gateway's door, and exactly one end. Thread-compatible.
class SmallCall {
 public:
  SmallCall(Gateway& gateway, GatewayMetrics::Method method)
      : gateway_(gateway), method_(method), start_(MonotonicNow()) {}

  absl::Status Enter(size_t bytes);
  // Counts the call and gives its place back.
  void End(const absl::Status& status);

 private:
  Gateway& gateway_;
  const GatewayMetrics::Method method_;
  const absl::Time start_;
  Admission::Ticket ticket_;
};

// `done` is called exactly once, from any thread, perhaps from within. `gateway` outlives it.
void RunTokenize(Gateway& gateway, GatewayMetrics::Method method, absl::Time deadline,
                 const v1::TokenizeRequest& request,
                 std::function<void(absl::StatusOr<v1::TokenizeResponse>)> done);
// `given_up` is asked now and then whether anybody still waits.
void RunDetokenize(Gateway& gateway, GatewayMetrics::Method method, std::function<bool()> given_up,
                   const v1::DetokenizeTextRequest& request,
                   std::function<void(absl::StatusOr<std::string>)> done);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_TEXT_CALLS_H_
