#include "services/gateway/http/openai_error.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/http/json_text.h"

namespace qwenserve {
namespace {

absl::string_view TypeOf(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return http_status < 500 ? "invalid_request_error" : "server_error";
  }
}

std::string ErrorJson(int http_status, absl::string_view message, absl::string_view param,
                      absl::string_view code) {
  std::string json = "{\"error\":{\"message\":";
  AppendJsonString(ReplaceInvalidUtf8(message), &json);
  json += ",\"type\":";
  AppendJsonString(TypeOf(http_status), &json);
  json += ",\"param\":";
  if (param.empty()) {
    json += "null";
  } else {
    AppendJsonString(ReplaceInvalidUtf8(param), &json);
  }
  json += ",\"code\":";
  if (code.empty()) {
    json += "null";
  } else {
    AppendJsonString(code, &json);
  }
  json += "}}";
  return json;
}

std::string CodeOf(const absl::Status& status) {
  if (status.code() == absl::StatusCode::kUnauthenticated) return "invalid_api_key";
  const std::string reason = ErrorReason(status);
  if (reason == kReasonInvalidField) return "invalid_value";
  // As over gRPC, where the code's name stands for the reason of what has none.
  return absl::AsciiStrToLower(reason.empty() ? absl::StatusCodeToString(status.code()) : reason);
}

}  // namespace

std::string OpenAiFieldName(absl::string_view field) {
  for (const absl::string_view prefix : {"options.sampling.", "options.", "input.", "chat."}) {
    if (!absl::StartsWith(field, prefix)) continue;
    field.remove_prefix(prefix.size());
    break;
  }
  if (field == "text") return "prompt";
  // Only detokenize has them without a message around.
  if (absl::StartsWith(field, "token_ids[")) {
    return absl::StrReplaceAll(field, {{"token_ids", "tokens"}});
  }
  if (absl::StartsWith(field, "token_ids")) {
    return absl::StrReplaceAll(field, {{"token_ids.ids", "prompt"}, {"token_ids", "prompt"}});
  }
  if (field == "tool_choice.mode") return "tool_choice";
  if (absl::StartsWith(field, "tool_choice.function_name")) return "tool_choice.function.name";
  std::string name(field);
  const bool of_tool = absl::StartsWith(name, "tools[") || absl::StrContains(name, "tool_calls[");
  if (of_tool) {
    name = absl::StrReplaceAll(name, {{"].name", "].function.name"},
                                      {"].description", "].function.description"},
                                      {"].parameters_json", "].function.parameters"},
                                      {"].arguments_json", "].function.arguments"}});
  }
  if (absl::EndsWith(name, ".reasoning")) name += "_content";
  return name;
}

absl::Status OfPrompt(const absl::Status& status, size_t index) {
  constexpr absl::string_view kPrompt = "prompt";
  const std::string field = ErrorField(status);
  const std::string name = OpenAiFieldName(field);
  if (!absl::StartsWith(name, kPrompt)) return status;
  const std::string place = absl::StrCat(kPrompt, "[", index, "]", name.substr(kPrompt.size()));
  absl::string_view description = status.message();
  if (absl::ConsumePrefix(&description, field)) absl::ConsumePrefix(&description, ": ");
  absl::Status renamed(status.code(), absl::StrCat(place, ": ", description));
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
    if (!absl::EndsWith(type, "/google.rpc.BadRequest")) renamed.SetPayload(type, payload);
  });
  return WithField(std::move(renamed), place, description);
}

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;  // nobody is left to read it
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string OpenAiErrorJson(const absl::Status& status) {
  const std::string field = ErrorField(status);
  const std::string param = OpenAiFieldName(field);
  std::string message(status.message());
  if (!field.empty() && absl::StartsWith(message, field)) {
    message = absl::StrCat(param, message.substr(field.size()));
  }
  return ErrorJson(HttpStatusOf(status), message, param, CodeOf(status));
}

HttpResponse OpenAiErrorResponse(const absl::Status& status) {
  HttpResponse response;
  response.status = HttpStatusOf(status);
  response.body = OpenAiErrorJson(status);
  const absl::Duration delay = ErrorRetryAfter(status);
  if (delay > absl::ZeroDuration()) {
    const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(delay, absl::Seconds(1)));
    response.headers.emplace_back("Retry-After", absl::StrCat(seconds));
  }
  if (response.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

HttpResponse OpenAiErrorResponse(int http_status, absl::string_view message) {
  HttpResponse response;
  response.status = http_status;
  response.body = ErrorJson(http_status, message, "", "");
  return response;
}

}  // namespace qwenserve
