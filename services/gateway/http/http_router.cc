#include "services/gateway/http/http_router.h"

#include <optional>

#include "absl/strings/match.h"
#include "services/gateway/http/static_assets.h"

namespace qwenserve {
namespace {

struct FixedRoute {
  absl::string_view path;
  Endpoint endpoint;
  bool post;
};

constexpr FixedRoute kRoutes[] = {
    {"/v1/chat/completions", Endpoint::kChat, true},
    {"/v1/completions", Endpoint::kCompletions, true},
    {"/v1/models", Endpoint::kModels, false},
    {"/tokenize", Endpoint::kTokenize, true},
    {"/detokenize", Endpoint::kDetokenize, true},
    {"/health", Endpoint::kHealth, false},
};

constexpr absl::string_view kModelPath = "/v1/models/";

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// nullopt for a broken escape.
std::optional<std::string> DecodePercent(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = HexDigit(text[i + 1]);
    const int low = HexDigit(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    out.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return out;
}

}  // namespace

HttpRoute FindRoute(absl::string_view path) {
  for (const FixedRoute& route : kRoutes) {
    if (path == route.path) return {route.endpoint, route.post, ""};
  }
  if (absl::StartsWith(path, kModelPath) && path.size() > kModelPath.size()) {
    const std::optional<std::string> name = DecodePercent(path.substr(kModelPath.size()));
    if (name.has_value()) return {Endpoint::kModel, false, *name};
  }
  if (HasAsset(path)) return {Endpoint::kAsset, false, std::string(path)};
  return {};
}

}  // namespace qwenserve
