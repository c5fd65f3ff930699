#include "services/gateway/http/text_handlers.h"

#include <atomic>
#include <functional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/gateway/http/json_text.h"
#include "services/gateway/http/openai_error.h"
#include "services/gateway/http/openai_request.h"
#include "services/gateway/http/request_headers.h"
#include "services/gateway/text_calls.h"

namespace qwenserve {
namespace {

// Waits for one result. Only Answer may be called from any thread.
class SmallHandler final : public HttpHandler, public std::enable_shared_from_this<SmallHandler> {
 public:
  SmallHandler(std::weak_ptr<HttpExchange> exchange, HttpResponse base)
      : exchange_(std::move(exchange)), base_(std::move(base)) {}

  void OnSent() override {}
  void OnQuiet() override {}
  void OnClientGone() override { gone_ = true; }
  bool gone() const { return gone_; }

  void Answer(absl::StatusOr<std::string> json) {
    const std::shared_ptr<HttpExchange> exchange = exchange_.lock();
    if (exchange == nullptr) return;
    exchange->Post([self = shared_from_this(), json = std::move(json)] {
      const std::shared_ptr<HttpExchange> open = self->exchange_.lock();
      if (open == nullptr || self->gone_) return;
      HttpResponse response = json.ok() ? HttpResponse() : OpenAiErrorResponse(json.status());
      if (json.ok()) response.body = *json;
      response.headers.insert(response.headers.end(), self->base_.headers.begin(),
                              self->base_.headers.end());
      open->Respond(std::move(response));
    });
  }

 private:
  const std::weak_ptr<HttpExchange> exchange_;
  const HttpResponse base_;
  std::atomic<bool> gone_{false};
};

std::string TokenizeJson(const v1::TokenizeResponse& response) {
  std::string json = "{\"count\":";
  absl::StrAppend(&json, response.token_ids_size(), ",\"max_model_len\":", response.max_model_len(),
                  ",\"tokens\":[");
  for (int i = 0; i < response.token_ids_size(); ++i) {
    absl::StrAppend(&json, i > 0 ? "," : "", response.token_ids(i));
  }
  json += "],\"token_strs\":";
  if (response.pieces().empty()) return json + "null}";
  for (int i = 0; i < response.pieces_size(); ++i) {
    json += i > 0 ? "," : "[";
    AppendJsonString(ReplaceInvalidUtf8(response.pieces(i)), &json);
  }
  return json + "]}";
}

std::string DetokenizeJson(const std::string& text) {
  std::string json = "{\"prompt\":";
  AppendJsonString(text, &json);
  return json + "}";
}

void RunOn(ParseThread* thread, size_t bytes, std::function<void()> work) {
  if (bytes <= ParseThread::kLongBody) {
    work();
  } else {
    thread->Post(std::move(work));
  }
}

}  // namespace

std::shared_ptr<HttpHandler> StartTokenizeHandler(Gateway* gateway, HttpRequest request,
                                                  const std::shared_ptr<HttpExchange>& exchange,
                                                  HttpResponse base, ParseThread* thread) {
  auto handler = std::make_shared<SmallHandler>(exchange, std::move(base));
  const absl::StatusOr<absl::Duration> timeout = RequestTimeout(request);
  const size_t bytes = request.body.size();
  const Caller caller = FindCaller(request, gateway->authenticator());
  RunOn(thread, bytes,
        [gateway, handler, timeout, caller, body = std::move(request.body),
         charge = std::move(request.charge)] {
          absl::StatusOr<v1::TokenizeRequest> parsed =
              timeout.ok() ? ParseTokenizeRequest(body) : timeout.status();
          const absl::Time deadline = MonotonicNow() + timeout.value_or(absl::ZeroDuration());
          RunTokenize(*gateway, GatewayMetrics::kHttpTokenize, caller, deadline, parsed,
                      [handler](absl::StatusOr<v1::TokenizeResponse> response) {
                        if (!response.ok()) return handler->Answer(response.status());
                        handler->Answer(TokenizeJson(*response));
                      });
        });
  return handler;
}

std::shared_ptr<HttpHandler> StartDetokenizeHandler(Gateway* gateway, HttpRequest request,
                                                    const std::shared_ptr<HttpExchange>& exchange,
                                                    HttpResponse base, ParseThread* thread) {
  auto handler = std::make_shared<SmallHandler>(exchange, std::move(base));
  const size_t bytes = request.body.size();
  const Caller caller = FindCaller(request, gateway->authenticator());
  RunOn(thread, bytes,
        [gateway, handler, caller, body = std::move(request.body),
         charge = std::move(request.charge)] {
          absl::StatusOr<v1::DetokenizeTextRequest> parsed = ParseDetokenizeRequest(body);
          RunDetokenize(
              *gateway, GatewayMetrics::kHttpDetokenize, caller,
              [handler] { return handler->gone(); }, parsed,
              [handler](absl::StatusOr<std::string> text) {
                if (!text.ok()) return handler->Answer(text.status());
                handler->Answer(DetokenizeJson(*text));
              });
        });
  return handler;
}

}  // namespace qwenserve
