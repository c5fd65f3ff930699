#include "services/gateway/auth/caller.h"

#include <utility>

#include "services/common/tracing/trace_context.h"

namespace qwenserve {

std::string CheckedTraceparent(absl::string_view value) {
  return ParseTraceparent(value).valid() ? std::string(value.substr(0, 55)) : "";
}

Caller MakeCaller(const Authenticator& authenticator, absl::string_view authorization,
                  std::string peer, absl::string_view traceparent) {
  Caller caller;
  auto grant = authenticator.Check(authorization);
  if (grant.ok()) {
    caller.grant = *std::move(grant);
  } else {
    caller.refusal = grant.status();
  }
  caller.peer = std::move(peer);
  caller.traceparent = CheckedTraceparent(traceparent);
  return caller;
}

}  // namespace qwenserve
