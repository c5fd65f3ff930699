#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_MESSAGE_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_MESSAGE_H_

#include <boost/beast/http/fields.hpp>
#include <boost/beast/http/message.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "services/gateway/http/http_body.h"

namespace qwenserve {

// A request as a handler sees it: its framing is checked, its body complete.
struct HttpRequest {
  boost::beast::http::request_header<> head;
  std::string path;  // of the target, without the query
  std::string body;
  // To be kept for as long as the body is: what it holds of the server's memory for bodies.
  std::shared_ptr<const BodyCharge> charge;
  std::string peer;  // IP address

  // The first value of a header field; empty when there is none.
  absl::string_view header(absl::string_view name) const;
  boost::beast::http::verb method() const { return head.method(); }
};

// The path of a request target: origin form, absolute form (`http://host/path`), or `*`. Empty for
// anything else.
std::string PathOfTarget(absl::string_view target);

// The whole of an answer, or, for a stream, all but its body.
struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  // Names and values are ours: never a client's text.
  std::vector<std::pair<std::string, std::string>> headers;
};

enum class HttpFraming { kLength, kChunked, kUntilClose };

// Status line and header fields up to the empty line. `length` is for HttpFraming::kLength.
std::string SerializeHead(const HttpResponse& response, HttpFraming framing, size_t length,
                          bool keep_alive);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_MESSAGE_H_
