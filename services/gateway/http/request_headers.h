#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_REQUEST_HEADERS_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_REQUEST_HEADERS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/gateway/authenticator.h"
#include "services/gateway/http/http_message.h"

namespace qwenserve {

// From `X-Request-Timeout: SECONDS`, which may have a fraction: how long the client will wait.
// Infinite without it; INVALID_ARGUMENT for anything but a number above 0.
absl::StatusOr<absl::Duration> RequestTimeout(const HttpRequest& request);

// The W3C traceparent (https://www.w3.org/TR/trace-context/) if it is well-formed, else "".
std::string CheckedTraceparent(absl::string_view value);

// Who calls; UNAUTHENTICATED as the authenticator says.
absl::StatusOr<Caller> FindCaller(const HttpRequest& request, const Authenticator& authenticator);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_REQUEST_HEADERS_H_
