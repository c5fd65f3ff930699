#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_ROUTER_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_ROUTER_H_

#include <string>

#include "absl/strings/string_view.h"

namespace qwenserve {

enum class Endpoint {
  kNone,
  kChat,
  kCompletions,
  kModels,
  kModel,  // HttpRoute::name is its id
  kTokenize,
  kDetokenize,
  kHealth,
  kAsset,  // HttpRoute::name is its path
};

struct HttpRoute {
  Endpoint endpoint = Endpoint::kNone;
  bool post = false;  // else GET and HEAD
  std::string name;
};

// What a path means, whatever the method. The paths are ASCII, model names in them may be
// percent-encoded.
HttpRoute FindRoute(absl::string_view path);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_HTTP_ROUTER_H_
