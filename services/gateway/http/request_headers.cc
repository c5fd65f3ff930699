#include "services/gateway/http/request_headers.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "engine/base/status_macros.h"
#include "services/common/error_details.h"

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

std::string CheckedTraceparent(absl::string_view value) {
  // version "-" trace id "-" parent id "-" flags, in lower-case hex; ids of zeros mean none.
  constexpr size_t kDashes[] = {2, 35, 52};
  if (value.size() != 55) return "";
  for (size_t i = 0; i < value.size(); ++i) {
    const bool dash = std::find(std::begin(kDashes), std::end(kDashes), i) != std::end(kDashes);
    const char c = value[i];
    const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (dash ? c != '-' : !hex) return "";
  }
  auto zeros = [&](size_t begin, size_t length) {
    return value.substr(begin, length).find_first_not_of('0') == absl::string_view::npos;
  };
  if (value.substr(0, 2) == "ff" || zeros(3, 32) || zeros(36, 16)) return "";
  return std::string(value);
}

absl::StatusOr<Caller> FindCaller(const HttpRequest& request, const Authenticator& authenticator) {
  Caller caller;
  QS_ASSIGN_OR_RETURN(caller.grant, authenticator.Check(request.header("authorization")));
  caller.peer = request.peer;
  caller.traceparent = CheckedTraceparent(request.header("traceparent"));
  return caller;
}

}  // namespace qwenserve
