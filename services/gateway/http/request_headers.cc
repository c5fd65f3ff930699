#include "services/gateway/http/request_headers.h"

#include "absl/strings/numbers.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/auth/caller.h"

namespace qwenserve {

absl::StatusOr<absl::Duration> RequestTimeout(const HttpRequest& request) {
  const absl::string_view value = request.header("x-request-timeout");
  if (value.empty()) return absl::InfiniteDuration();
  double seconds = 0;
  // The comparison is false for NaN.
  if (!absl::SimpleAtod(value, &seconds) || !(seconds > 0)) {
    return InvalidField("X-Request-Timeout", "must be a number of seconds above 0");
  }
  return absl::Seconds(seconds);
}

Caller FindCaller(const HttpRequest& request, const Authenticator& authenticator) {
  // Two values could be read differently here and by a proxy.
  const bool one = request.head.count("authorization") == 1;
  return MakeCaller(authenticator, one ? request.header("authorization") : "", request.peer,
                    request.header("traceparent"));
}

}  // namespace qwenserve
