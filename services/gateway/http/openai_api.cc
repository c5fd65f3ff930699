#include "services/gateway/http/openai_api.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "services/gateway/call/random_draws.h"
#include "services/gateway/http/generate_handler.h"
#include "services/gateway/http/generate_jobs.h"
#include "services/gateway/http/json_text.h"
#include "services/gateway/http/openai_error.h"
#include "services/gateway/http/request_headers.h"
#include "services/gateway/http/static_assets.h"
#include "services/gateway/http/text_handlers.h"
#include "services/gateway/text_calls.h"

namespace qwenserve {
namespace {

using boost::beast::http::verb;

// For everyone: a probe has no key, a page is loaded before its user has typed one, and a browser
// sends none with a preflight.
bool IsPublic(const HttpRequest& request, const HttpRoute& route) {
  return route.endpoint == Endpoint::kHealth || route.endpoint == Endpoint::kAsset ||
         request.method() == verb::options;
}

bool IsJson(absl::string_view content_type) {
  const absl::string_view type =
      absl::StripTrailingAsciiWhitespace(content_type.substr(0, content_type.find(';')));
  return absl::EqualsIgnoreCase(type, "application/json");
}

std::string ModelJson(const v1::Model& model) {
  std::string json = "{\"id\":";
  AppendJsonString(model.id(), &json);
  absl::StrAppend(&json, ",\"object\":\"model\",\"created\":0,\"owned_by\":\"qwenserve\"",
                  ",\"max_model_len\":", model.max_model_len(), "}");
  return json;
}

HttpResponse ModelsResponse(Gateway& gateway, Caller caller) {
  const auto models = RunListModels(gateway, GatewayMetrics::kHttpListModels, std::move(caller));
  if (!models.ok()) return OpenAiErrorResponse(models.status());
  HttpResponse response;
  response.body = "{\"object\":\"list\",\"data\":[";
  for (const v1::Model& model : *models) {
    absl::StrAppend(&response.body, &model == &models->front() ? "" : ",", ModelJson(model));
  }
  response.body += "]}";
  return response;
}

HttpResponse ModelResponse(Gateway& gateway, Caller caller, const std::string& name) {
  const absl::StatusOr<v1::Model> model =
      RunGetModel(gateway, GatewayMetrics::kHttpGetModel, std::move(caller), name);
  if (!model.ok()) return OpenAiErrorResponse(model.status());
  HttpResponse response;
  response.body = ModelJson(*model);
  return response;
}

HttpResponse HealthResponse(const Gateway& gateway, bool draining) {
  HttpResponse response;
  const bool served = gateway.catalog()->AnyServed();
  response.status = served && !draining ? 200 : 503;
  response.body = draining ? "{\"status\":\"draining\"}"
                  : served ? "{\"status\":\"ok\"}"
                           : "{\"status\":\"no model can be used\"}";
  return response;
}

}  // namespace

OpenAiApi::OpenAiApi(Gateway* gateway, OpenAiOptions options)
    : gateway_(*gateway), options_(std::move(options)) {}

std::optional<HttpResponse> OpenAiApi::Refuse(const HttpRequest& head) {
  const HttpRoute route = FindRoute(head.path);
  std::optional<HttpResponse> refused;
  Caller caller;
  caller.peer = head.peer;
  // Probes call health under whatever name, and a page that does learns nothing.
  if (route.endpoint != Endpoint::kHealth) refused = host_policy_.Check(head);
  if (!refused.has_value() && !IsPublic(head, route)) {
    caller = FindCaller(head, gateway_.authenticator());
    if (!caller.refusal.ok()) refused = OpenAiErrorResponse(caller.refusal);
  }
  if (!refused.has_value()) refused = RefuseRoute(head, route);
  if (refused.has_value()) {
    const std::string id = RandomId("req-");
    LogRefusal(id, caller, refused->status);
    refused->headers.emplace_back("x-request-id", id);
    AllowOrigin(head, &*refused);
  }
  return refused;
}

void OpenAiApi::LogRefusal(const std::string& id, const Caller& caller, int status) const {
  if (gateway_.services().access_log == nullptr) return;
  AccessRecord record;
  record.id = id;
  // Not the path, which is the client's text.
  record.method = "Http";
  record.status = !caller.refusal.ok()             ? caller.refusal
                  : status == 404                  ? absl::NotFoundError("")
                  : status == 403 || status == 421 ? absl::PermissionDeniedError("")
                                                   : absl::InvalidArgumentError("");
  gateway_.services().access_log->Write(record, caller);
}

std::optional<HttpResponse> OpenAiApi::RefuseRoute(const HttpRequest& head,
                                                   const HttpRoute& route) const {
  if (head.method() == verb::options) return std::nullopt;
  const bool hidden = options_.no_ui && route.endpoint == Endpoint::kAsset;
  if (hidden || route.endpoint == Endpoint::kNone) {
    return OpenAiErrorResponse(404, "there is no such path");
  }
  const bool get = head.method() == verb::get || head.method() == verb::head;
  const bool fits = route.post ? head.method() == verb::post : get;
  if (!fits) {
    const std::string allowed = route.post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
    HttpResponse response = OpenAiErrorResponse(405, absl::StrCat("the methods are ", allowed));
    response.headers.emplace_back("Allow", allowed);
    return response;
  }
  // Other types need no preflight, so any web page could make a browser send them here.
  if (route.post && !IsJson(head.header("content-type"))) {
    return OpenAiErrorResponse(415, "the Content-Type must be application/json");
  }
  const absl::string_view encoding = head.header("content-encoding");
  if (!encoding.empty() && !absl::EqualsIgnoreCase(encoding, "identity")) {
    return OpenAiErrorResponse(415, "compressed requests are not taken");
  }
  return std::nullopt;
}

void OpenAiApi::AllowOrigin(const HttpRequest& request, HttpResponse* response) const {
  const absl::string_view origin = request.header("origin");
  if (origin.empty()) return;
  for (const std::string& allowed : options_.allowed_origins) {
    if (allowed != "*" && allowed != origin) continue;
    // Of the two only ours is sent back.
    response->headers.emplace_back("Access-Control-Allow-Origin", allowed);
    response->headers.emplace_back("Access-Control-Expose-Headers", "x-request-id, Retry-After");
    response->headers.emplace_back("Vary", "Origin");
    return;
  }
}

HttpResponse OpenAiApi::Preflight(const HttpRequest& request, const HttpRoute& route) const {
  const std::string methods = route.post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
  HttpResponse response;
  response.status = 204;
  response.headers.emplace_back("Allow", methods);
  AllowOrigin(request, &response);
  if (response.headers.size() > 1) {
    response.headers.emplace_back("Access-Control-Allow-Methods", methods);
    // Clients have their own, such as those of OpenAI's library, and none does harm. The asterisk
    // does not stand for Authorization.
    response.headers.emplace_back("Access-Control-Allow-Headers", "*, Authorization");
    response.headers.emplace_back("Access-Control-Max-Age", "600");
  }
  return response;
}

HttpResponse OpenAiApi::AnswerAtOnce(const HttpRequest& request, const HttpRoute& route) const {
  switch (route.endpoint) {
    case Endpoint::kModels:
      return ModelsResponse(gateway_, FindCaller(request, gateway_.authenticator()));
    case Endpoint::kModel:
      return ModelResponse(gateway_, FindCaller(request, gateway_.authenticator()), route.name);
    case Endpoint::kHealth:
      return HealthResponse(gateway_, draining_);
    case Endpoint::kAsset:
      return AssetResponse(route.name, request.header("if-none-match"));
    default:
      return OpenAiErrorResponse(404, "there is no such path");
  }
}

std::shared_ptr<HttpHandler> OpenAiApi::Handle(HttpRequest request,
                                               const std::shared_ptr<HttpExchange>& exchange) {
  const HttpRoute route = FindRoute(request.path);
  if (request.method() == verb::options) {
    exchange->Respond(Preflight(request, route));
    return nullptr;
  }
  HttpResponse base;
  AllowOrigin(request, &base);
  const bool generates =
      route.endpoint == Endpoint::kChat || route.endpoint == Endpoint::kCompletions;
  // A generation's own id is also in its answer and in the list of requests.
  if (!generates) base.headers.emplace_back("x-request-id", RandomId("req-"));
  switch (route.endpoint) {
    case Endpoint::kChat:
    case Endpoint::kCompletions: {
      auto handler = std::make_shared<GenerateHandler>(&gateway_, exchange, base.headers);
      handler->Start(std::move(request),
                     route.endpoint == Endpoint::kChat ? ParseChatJob : ParseCompletionJob,
                     &parse_thread_);
      return handler;
    }
    case Endpoint::kTokenize:
      return StartTokenizeHandler(&gateway_, std::move(request), exchange, std::move(base),
                                  &parse_thread_);
    case Endpoint::kDetokenize:
      return StartDetokenizeHandler(&gateway_, std::move(request), exchange, std::move(base),
                                    &parse_thread_);
    default: {
      HttpResponse response = AnswerAtOnce(request, route);
      response.headers.insert(response.headers.end(), base.headers.begin(), base.headers.end());
      exchange->Respond(std::move(response));
      return nullptr;
    }
  }
}

HttpResponse OpenAiApi::Error(int status, absl::string_view message) {
  return OpenAiErrorResponse(status, message);
}

}  // namespace qwenserve
