#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_REQUEST_HEADERS_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_REQUEST_HEADERS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/gateway/auth/authenticator.h"
#include "services/gateway/http/http_message.h"

namespace qwenserve {

// From `X-Request-Timeout: SECONDS`, which may have a fraction: how long the client will wait.
// Infinite without it; INVALID_ARGUMENT for anything but a number above 0.
absl::StatusOr<absl::Duration> RequestTimeout(const HttpRequest& request);

// Who calls. More than one Authorization is as none.
Caller FindCaller(const HttpRequest& request, const Authenticator& authenticator);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_REQUEST_HEADERS_H_
