#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_ERROR_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_ERROR_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "services/gateway/http/http_message.h"

namespace qwenserve {

// A status as OpenAI's clients expect errors: {"error": {"message", "type", "param", "code"}}.
// `param` is the field of the first violation, under its name in the JSON; `code` is our reason in
// lower case, or the name of OpenAI's where there is one.

int HttpStatusOf(const absl::Status& status);
std::string OpenAiErrorJson(const absl::Status& status);
// With Retry-After where the status knows a delay.
HttpResponse OpenAiErrorResponse(const absl::Status& status);
// For what the HTTP server refuses by itself.
HttpResponse OpenAiErrorResponse(int http_status, absl::string_view message);

// The name that a field of our API has in OpenAI's JSON: `options.sampling.top_p` is `top_p`.
std::string OpenAiFieldName(absl::string_view field);

// An error of one of several prompts, which says of which: `prompt[3]` instead of `prompt`.
absl::Status OfPrompt(const absl::Status& status, size_t index);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_ERROR_H_
