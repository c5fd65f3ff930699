#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_MESSAGES_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_MESSAGES_H_

#include "absl/status/status.h"
#include "qwenserve/v1/inference.pb.h"
#include "services/gateway/http/json_fields.h"

namespace qwenserve {

// `messages`, `tools` or `functions`, the choice among them, and what the chat template takes.
// `functions`: set when the request speaks of functions rather than of tools. Schemas keep the
// order of their keys.
absl::Status ReadConversation(const JsonFields& body, v1::ChatInput* input, bool* functions);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_MESSAGES_H_
