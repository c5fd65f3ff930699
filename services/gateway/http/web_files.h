#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_WEB_FILES_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_WEB_FILES_H_

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace qwenserve {

// A file of services/gateway/web, as the build has put it into the program.
struct WebFile {
  absl::string_view name;
  absl::string_view etag;  // of its content, with the quotes
  absl::string_view content;
};

absl::Span<const WebFile> WebFiles();

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_WEB_FILES_H_
