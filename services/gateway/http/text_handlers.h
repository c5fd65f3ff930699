#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_TEXT_HANDLERS_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_TEXT_HANDLERS_H_

#include <memory>

#include "services/gateway/gateway.h"
#include "services/gateway/http/http_application.h"
#include "services/gateway/http/parse_thread.h"

namespace qwenserve {

// POST /tokenize and /detokenize, in the shapes of vLLM: {"prompt"} or {"messages"} to {"tokens",
// "count", "max_model_len"}, and {"tokens"} to {"prompt"}. `headers` of `base` go with the answer.
std::shared_ptr<HttpHandler> StartTokenizeHandler(Gateway* gateway, HttpRequest request,
                                                  const std::shared_ptr<HttpExchange>& exchange,
                                                  HttpResponse base, ParseThread* thread);
std::shared_ptr<HttpHandler> StartDetokenizeHandler(Gateway* gateway, HttpRequest request,
                                                    const std::shared_ptr<HttpExchange>& exchange,
                                                    HttpResponse base, ParseThread* thread);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_TEXT_HANDLERS_H_
