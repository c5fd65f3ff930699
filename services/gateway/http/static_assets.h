#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_STATIC_ASSETS_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_STATIC_ASSETS_H_

#include "absl/strings/string_view.h"
#include "services/gateway/http/http_message.h"

namespace qwenserve {

// The chat page: at `/`, and what belongs to it below `/ui/`.
bool HasAsset(absl::string_view path);

// The answer to a GET of a path that HasAsset: 304 when `if_none_match`, the field of that name, is
// what the client would get. The policy lets the page load nothing that is not from here, and no
// other page show it in a frame.
HttpResponse AssetResponse(absl::string_view path, absl::string_view if_none_match);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_STATIC_ASSETS_H_
