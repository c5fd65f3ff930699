#include "services/gateway/http/forwarded_for.h"

#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace qwenserve {
namespace {

// Some proxies add the port.
std::optional<IpAddress> ParseElement(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (!text.empty() && text[0] == '[') {
    const size_t end = text.find(']');
    if (end == absl::string_view::npos) return std::nullopt;
    return IpAddress::Parse(text.substr(1, end - 1));
  }
  const size_t colon = text.find(':');
  const bool port = colon != absl::string_view::npos && colon == text.rfind(':');
  return IpAddress::Parse(port ? text.substr(0, colon) : text);
}

}  // namespace

std::string ForwardedPeer(const NetworkList& trusted, const std::string& peer,
                          const boost::beast::http::fields& head) {
  if (trusted.empty()) return peer;
  std::optional<IpAddress> address = IpAddress::Parse(peer);
  if (!address.has_value() || !trusted.Contains(*address)) return peer;
  std::vector<absl::string_view> elements;
  const auto [begin, end] = head.equal_range("X-Forwarded-For");
  for (auto field = begin; field != end; ++field) {
    const absl::string_view value(field->value().data(), field->value().size());
    for (absl::string_view element : absl::StrSplit(value, ',')) elements.push_back(element);
  }
  for (auto element = elements.rbegin(); element != elements.rend(); ++element) {
    const std::optional<IpAddress> before = ParseElement(*element);
    if (!before.has_value()) break;
    address = before;
    if (!trusted.Contains(*before)) break;
  }
  return address->ToString();
}

}  // namespace qwenserve
