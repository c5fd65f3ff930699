#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_OPTIONS_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_OPTIONS_H_

#include "absl/status/status.h"
#include "qwenserve/v1/inference.pb.h"
#include "services/gateway/http/json_fields.h"
#include "services/gateway/http/openai_request.h"

namespace qwenserve {

// What the bodies of chat and completion requests have in common: sampling, lengths, stops, and
// which fields are refused. logprobs is not: the two mean different things by it.
absl::Status ReadOptions(const JsonFields& body, v1::GenerationOptions* options,
                         OpenAiStyle* style);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_OPTIONS_H_
