#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_API_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_API_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/gateway/gateway.h"
#include "services/gateway/http/http_application.h"
#include "services/gateway/http/http_router.h"
#include "services/gateway/http/parse_thread.h"

namespace qwenserve {

struct OpenAiOptions {
  // Web pages of these origins may call from a browser; "*" stands for all. A page that the gateway
  // itself serves needs no entry.
  std::vector<std::string> allowed_origins;
  bool no_ui = false;  // without the chat page
};

// OpenAI's HTTP API over a gateway: credentials, paths, and a handler for each request.
class OpenAiApi final : public HttpApplication {
 public:
  // `gateway` outlives it.
  OpenAiApi(Gateway* gateway, OpenAiOptions options);

  std::optional<HttpResponse> Refuse(const HttpRequest& head) override;
  std::shared_ptr<HttpHandler> Handle(HttpRequest request,
                                      const std::shared_ptr<HttpExchange>& exchange) override;
  HttpResponse Error(int status, absl::string_view message) override;

 private:
  std::optional<HttpResponse> RefuseRoute(const HttpRequest& head, const HttpRoute& route) const;
  void LogRefusal(const std::string& id, const Caller& caller, int status) const;
  void AllowOrigin(const HttpRequest& request, HttpResponse* response) const;
  HttpResponse Preflight(const HttpRequest& request, const HttpRoute& route) const;
  HttpResponse AnswerAtOnce(const HttpRequest& request, const HttpRoute& route) const;

  Gateway& gateway_;
  const OpenAiOptions options_;
  ParseThread parse_thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_API_H_
