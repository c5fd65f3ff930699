#include "services/gateway/http/static_assets.h"

#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "services/gateway/http/web_files.h"

namespace qwenserve {
namespace {

constexpr absl::string_view kPage = "index.html";

// Trusted types: with no policy allowed, text can't become markup anywhere in the page.
constexpr char kPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'";

const WebFile* FindFile(absl::string_view path) {
  absl::string_view name = path;
  if (path == "/") {
    name = kPage;
  } else if (!absl::ConsumePrefix(&name, "/ui/") || name == kPage) {
    return nullptr;
  }
  for (const WebFile& file : WebFiles()) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

absl::string_view TypeOf(absl::string_view name) {
  if (absl::EndsWith(name, ".html")) return "text/html; charset=utf-8";
  if (absl::EndsWith(name, ".js")) return "text/javascript; charset=utf-8";
  if (absl::EndsWith(name, ".css")) return "text/css; charset=utf-8";
  return "image/svg+xml";
}

// The weak comparison of RFC 9110, section 13.1.2.
bool Matches(absl::string_view if_none_match, absl::string_view etag) {
  for (absl::string_view tag : absl::StrSplit(if_none_match, ',')) {
    tag = absl::StripAsciiWhitespace(tag);
    absl::ConsumePrefix(&tag, "W/");
    if (tag == etag || tag == "*") return true;
  }
  return false;
}

}  // namespace

bool HasAsset(absl::string_view path) { return FindFile(path) != nullptr; }

HttpResponse AssetResponse(absl::string_view path, absl::string_view if_none_match) {
  const WebFile& file = *FindFile(path);
  HttpResponse response;
  response.headers = {{"ETag", std::string(file.etag)}, {"Cache-Control", "no-cache"}};
  if (Matches(if_none_match, file.etag)) {
    response.status = 304;
    return response;
  }
  response.content_type = std::string(TypeOf(file.name));
  response.body = std::string(file.content);
  for (const auto& [name, value] :
       {std::pair("Content-Security-Policy", kPolicy),
        std::pair("X-Content-Type-Options", "nosniff"), std::pair("Referrer-Policy", "no-referrer"),
        std::pair("Cross-Origin-Opener-Policy", "same-origin"),
        std::pair("Cross-Origin-Resource-Policy", "same-origin")}) {
    response.headers.emplace_back(name, value);
  }
  return response;
}

}  // namespace qwenserve
