#include "services/gateway/auth/caller.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace qwenserve {
namespace {

// version "-" trace id "-" parent id "-" flags, in lower-case hex.
constexpr size_t kLength = 55;
constexpr size_t kDashes[] = {2, 35, 52};

}  // namespace

std::string CheckedTraceparent(absl::string_view value) {
  const bool longer = value.size() > kLength;
  if (value.size() < kLength || (longer && value[kLength] != '-')) return "";
  const bool version_0 = value.substr(0, 2) == "00";
  if (version_0 && longer) return "";
  value = value.substr(0, kLength);
  for (size_t i = 0; i < kLength; ++i) {
    const bool dash = std::find(std::begin(kDashes), std::end(kDashes), i) != std::end(kDashes);
    const char c = value[i];
    const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (dash ? c != '-' : !hex) return "";
  }
  // Ids of zeros mean none.
  auto zeros = [&](size_t begin, size_t length) {
    return value.substr(begin, length).find_first_not_of('0') == absl::string_view::npos;
  };
  if (value.substr(0, 2) == "ff" || zeros(3, 32) || zeros(36, 16)) return "";
  return std::string(value);
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
