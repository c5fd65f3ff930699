#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_GENERATE_JOBS_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_GENERATE_JOBS_H_

#include <string>

#include "services/gateway/http/generate_handler.h"

namespace qwenserve {

// Bodies of POST /v1/chat/completions and /v1/completions.
GenerateHandler::Job ParseChatJob(const std::string& body, const RequestLimits& limits);
GenerateHandler::Job ParseCompletionJob(const std::string& body, const RequestLimits& limits);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_GENERATE_JOBS_H_
