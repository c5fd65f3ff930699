#ifndef QWENSERVE_SERVICES_GATEWAY_AUTH_CALLER_H_
#define QWENSERVE_SERVICES_GATEWAY_AUTH_CALLER_H_

#include <string>

#include "absl/strings/string_view.h"
#include "services/gateway/auth/authenticator.h"

namespace qwenserve {

// The W3C traceparent (https://www.w3.org/TR/trace-context/) if it is well-formed, else "". What a
// version above 00 may add after a further dash is left out.
std::string CheckedTraceparent(absl::string_view value);

// A caller from what a transport knows: credentials checked, traceparent checked.
Caller MakeCaller(const Authenticator& authenticator, absl::string_view authorization,
                  std::string peer, absl::string_view traceparent);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_AUTH_CALLER_H_
