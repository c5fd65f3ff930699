#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_API_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_API_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "services/gateway/gateway.h"
#include "services/gateway/http/host_policy.h"
#include "services/gateway/http/http_application.h"
#include "services/gateway/http/http_router.h"
#include "services/gateway/http/parse_thread.h"

namespace qwenserve {

struct OpenAiOptions {
  // Web pages of these origins may call from a browser; "*" stands for all. A page that the gateway
  // itself serves needs no entry.
  std::vector<std::string> allowed_origins;
  // As of HostPolicy.
  std::vector<std::string> allowed_hosts;
  bool no_ui = false;  // without the chat page
};

// OpenAI's HTTP API over a gateway: credentials, paths, and a handler for each request.
class OpenAiApi final : public HttpApplication {
 public:
  // `gateway` outlives it.
  OpenAiApi(Gateway* gateway, OpenAiOptions options);

  // Whose requests are taken; before the first one. By default all are.
  void SetHostPolicy(HostPolicy policy) { host_policy_ = std::move(policy); }
  // From now on /health is 503. Thread-safe.
  void Drain() { draining_ = true; }

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
  HostPolicy host_policy_;
  std::atomic<bool> draining_{false};
  ParseThread parse_thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_API_H_
