#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_STATIC_ASSETS_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_STATIC_ASSETS_H_

#include "absl/strings/string_view.h"

namespace qwenserve {

// A file that is part of the program.
struct StaticAsset {
  absl::string_view path;
  absl::string_view content_type;
  absl::string_view body;
  // Empty: no Content-Security-Policy.
  absl::string_view content_security_policy;
};

// Null when there is none at `path`.
const StaticAsset* FindAsset(absl::string_view path);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_STATIC_ASSETS_H_
