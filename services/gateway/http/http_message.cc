#include "services/gateway/http/http_message.h"

#include <boost/beast/http/status.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace qwenserve {

absl::string_view HttpRequest::header(absl::string_view name) const {
  const auto value = head[boost::beast::string_view(name.data(), name.size())];
  return absl::string_view(value.data(), value.size());
}

std::string PathOfTarget(absl::string_view target) {
  for (const absl::string_view scheme : {"http://", "https://"}) {
    if (!absl::StartsWithIgnoreCase(target, scheme)) continue;
    const size_t slash = target.find('/', scheme.size());
    target = slash == absl::string_view::npos ? absl::string_view("/") : target.substr(slash);
    break;
  }
  if (target != "*" && !absl::StartsWith(target, "/")) return "";
  return std::string(target.substr(0, target.find_first_of("?#")));
}

std::string SerializeHead(const HttpResponse& response, HttpFraming framing, size_t length,
                          bool keep_alive) {
  const auto reason =
      boost::beast::http::obsolete_reason(boost::beast::http::int_to_status(response.status));
  std::string head =
      absl::StrCat("HTTP/1.1 ", response.status, " ",
                   absl::string_view(reason.data(), reason.size()), "\r\nDate: ",
                   absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone()));
  // These have neither a body nor a length.
  if (response.status != 204 && response.status != 304) {
    absl::StrAppend(&head, "\r\nContent-Type: ", response.content_type);
    if (framing == HttpFraming::kLength) absl::StrAppend(&head, "\r\nContent-Length: ", length);
    if (framing == HttpFraming::kChunked) head += "\r\nTransfer-Encoding: chunked";
  }
  for (const auto& [name, value] : response.headers) {
    absl::StrAppend(&head, "\r\n", name, ": ", value);
  }
  absl::StrAppend(&head, "\r\nConnection: ", keep_alive ? "keep-alive" : "close", "\r\n\r\n");
  return head;
}

}  // namespace qwenserve
