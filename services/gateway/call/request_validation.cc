#include "services/gateway/call/request_validation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/status_macros.h"
#include "google/rpc/error_details.pb.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

absl::Status NotBuiltYet(absl::string_view field) {
  absl::Status status = absl::UnimplementedError(absl::StrCat(field, ": not supported yet"));
  return WithField(WithReason(status, kReasonNotBuiltYet), field, "not supported yet");
}

// The comparison is false for NaN, so NaN is refused too.
absl::Status InRange(absl::string_view field, double value, double low, double high,
                     absl::string_view alternative = "") {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat("is ", value, ", must be ", alternative, "in [", low, ", ", high, "]"));
}

absl::Status AboveZero(absl::string_view field, double value, double high) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("is ", value, ", must be in (0, ", high, "]"));
}

absl::Status AtMost(absl::string_view field, uint64_t value, uint64_t limit,
                    absl::string_view unit) {
  if (value <= limit) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("has ", value, " ", unit, ", at most ", limit));
}

absl::Status CheckSampling(const v1::SamplingParams& sampling, const RequestLimits& limits) {
  if (sampling.has_temperature() && sampling.temperature() != 0) {
    QS_RETURN_IF_ERROR(
        InRange("options.sampling.temperature", sampling.temperature(), 0.001f, 100, "0 or "));
  }
  if (sampling.has_top_p()) {
    QS_RETURN_IF_ERROR(AboveZero("options.sampling.top_p", sampling.top_p(), 1));
  }
  if (sampling.has_top_k()) {
    QS_RETURN_IF_ERROR(InRange("options.sampling.top_k", sampling.top_k(), 0,
                               std::numeric_limits<int32_t>::max()));
  }
  if (sampling.has_min_p()) {
    QS_RETURN_IF_ERROR(InRange("options.sampling.min_p", sampling.min_p(), 0, 1));
  }
  if (sampling.has_repetition_penalty()) {
    QS_RETURN_IF_ERROR(
        InRange("options.sampling.repetition_penalty", sampling.repetition_penalty(), 0.01f, 100));
  }
  if (sampling.has_presence_penalty()) {
    QS_RETURN_IF_ERROR(
        InRange("options.sampling.presence_penalty", sampling.presence_penalty(), -2, 2));
  }
  if (sampling.has_frequency_penalty()) {
    QS_RETURN_IF_ERROR(
        InRange("options.sampling.frequency_penalty", sampling.frequency_penalty(), -2, 2));
  }
  QS_RETURN_IF_ERROR(AtMost("options.sampling.logit_bias", sampling.logit_bias().size(),
                            limits.max_logit_bias, "ids"));
  for (const auto& [id, bias] : sampling.logit_bias()) {
    QS_RETURN_IF_ERROR(
        InRange(absl::StrCat("options.sampling.logit_bias[", id, "]"), bias, -100, 100));
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const v1::GenerationOptions& options, const RequestLimits& limits) {
  QS_RETURN_IF_ERROR(CheckSampling(options.sampling(), limits));
  if (options.has_max_tokens() && options.max_tokens() == 0) {
    return InvalidField("options.max_tokens", "is 0, must be at least 1");
  }
  if (options.has_max_tokens() && options.min_tokens() > options.max_tokens()) {
    return InvalidField(
        "options.min_tokens",
        absl::StrCat("is ", options.min_tokens(), ", max_tokens is ", options.max_tokens()));
  }
  if (options.n() > limits.max_n) {
    return InvalidField("options.n",
                        absl::StrCat("is ", options.n(), ", must be at most ", limits.max_n));
  }
  QS_RETURN_IF_ERROR(
      AtMost("options.stop", options.stop_size(), limits.max_stop_strings, "strings"));
  for (int i = 0; i < options.stop_size(); ++i) {
    const std::string field = absl::StrCat("options.stop[", i, "]");
    if (options.stop(i).empty()) return InvalidField(field, "must not be empty");
    QS_RETURN_IF_ERROR(AtMost(field, options.stop(i).size(), limits.max_stop_bytes, "bytes"));
  }
  QS_RETURN_IF_ERROR(AtMost("options.stop_token_ids", options.stop_token_ids_size(),
                            limits.max_stop_token_ids, "ids"));
  QS_RETURN_IF_ERROR(
      InRange("options.top_logprobs", options.top_logprobs(), 0, limits.max_top_logprobs));
  QS_RETURN_IF_ERROR(AtMost("options.cache_salt", options.cache_salt().size(),
                            limits.max_cache_salt_bytes, "bytes"));
  return InRange("options.priority", options.priority(), -limits.max_priority, limits.max_priority);
}

absl::Status CheckNames(absl::string_view model, absl::string_view request_id,
                        const RequestLimits& limits) {
  QS_RETURN_IF_ERROR(AtMost("model", model.size(), limits.max_model_name_bytes, "bytes"));
  QS_RETURN_IF_ERROR(
      AtMost("request_id", request_id.size(), limits.max_request_id_bytes, "characters"));
  // It appears in logs, where a line break could forge a line.
  const bool printable =
      std::all_of(request_id.begin(), request_id.end(), [](char c) { return c > 31 && c < 127; });
  if (!printable) return InvalidField("request_id", "must be printable ASCII");
  return absl::OkStatus();
}

absl::Status CheckMessage(const v1::ChatMessage& message, const std::string& path) {
  const v1::Role role = message.role();
  if (role == v1::ROLE_UNSPECIFIED || !v1::Role_IsValid(role)) {
    return InvalidField(absl::StrCat(path, ".role"), "is required");
  }
  if (role != v1::ROLE_ASSISTANT) {
    if (!message.reasoning().empty()) {
      return InvalidField(absl::StrCat(path, ".reasoning"), "only assistant messages have it");
    }
    if (message.tool_calls_size() > 0) {
      return InvalidField(absl::StrCat(path, ".tool_calls"), "only assistant messages have them");
    }
  }
  for (int i = 0; i < message.tool_calls_size(); ++i) {
    if (message.tool_calls(i).name().empty()) {
      return InvalidField(absl::StrCat(path, ".tool_calls[", i, "].name"), "is required");
    }
  }
  if (role != v1::ROLE_TOOL && !message.tool_call_id().empty()) {
    return InvalidField(absl::StrCat(path, ".tool_call_id"), "only tool messages have it");
  }
  return absl::OkStatus();
}

absl::Status CheckTools(const v1::ChatInput& input, const std::string& path,
                        const RequestLimits& limits) {
  QS_RETURN_IF_ERROR(
      AtMost(absl::StrCat(path, ".tools"), input.tools_size(), limits.max_tools, "tools"));
  for (int i = 0; i < input.tools_size(); ++i) {
    if (input.tools(i).name().empty()) {
      return InvalidField(absl::StrCat(path, ".tools[", i, "].name"), "is required");
    }
  }
  const std::string field = absl::StrCat(path, ".tool_choice.mode");
  const v1::ToolChoice::Mode mode = input.tool_choice().mode();
  if (!v1::ToolChoice::Mode_IsValid(mode)) {
    return InvalidField(field, absl::StrCat("is ", static_cast<int>(mode), ", which is unknown"));
  }
  const bool named = mode == v1::ToolChoice::MODE_FUNCTION;
  if (!named && mode != v1::ToolChoice::MODE_REQUIRED) return absl::OkStatus();
  if (input.tools().empty()) return InvalidField(field, "asks for a call where there are no tools");
  const auto is_it = [&](const v1::Tool& tool) {
    return tool.name() == input.tool_choice().function_name();
  };
  if (named && std::none_of(input.tools().begin(), input.tools().end(), is_it)) {
    return InvalidField(absl::StrCat(path, ".tool_choice.function_name"), "is none of the tools");
  }
  const bool answers = !input.has_add_generation_prompt() || input.add_generation_prompt();
  if (input.continue_final_message() || !answers) {
    return InvalidField(field, "asks for a call where no new answer begins");
  }
  return absl::OkStatus();
}

absl::Status CheckInput(const v1::ChatInput& input, const std::string& path,
                        const RequestLimits& limits) {
  QS_RETURN_IF_ERROR(AtMost(path, input.ByteSizeLong(), limits.max_input_bytes, "bytes"));
  const std::string messages = absl::StrCat(path, ".messages");
  if (input.messages().empty()) return InvalidField(messages, "must not be empty");
  QS_RETURN_IF_ERROR(AtMost(messages, input.messages_size(), limits.max_messages, "messages"));
  for (int i = 0; i < input.messages_size(); ++i) {
    QS_RETURN_IF_ERROR(CheckMessage(input.messages(i), absl::StrCat(messages, "[", i, "]")));
  }
  if (input.continue_final_message()) {
    const std::string field = absl::StrCat(path, ".continue_final_message");
    if (input.messages().rbegin()->role() != v1::ROLE_ASSISTANT) {
      return InvalidField(field, "the last message is not the assistant's");
    }
    if (input.has_add_generation_prompt() && input.add_generation_prompt()) {
      return InvalidField(field, "excludes add_generation_prompt");
    }
  }
  return CheckTools(input, path, limits);
}

}  // namespace

absl::StatusOr<GenerateRequest> ValidateChat(v1::ChatRequest request, const RequestLimits& limits) {
  QS_RETURN_IF_ERROR(CheckNames(request.model(), request.request_id(), limits));
  QS_RETURN_IF_ERROR(CheckInput(request.input(), "input", limits));
  QS_RETURN_IF_ERROR(CheckOptions(request.options(), limits));
  GenerateRequest result;
  result.chat = true;
  result.model = request.model();
  result.request_id = request.request_id();
  *result.prompt.mutable_chat() = std::move(*request.mutable_input());
  // NONE means that the model does not see the tools.
  if (result.prompt.chat().tool_choice().mode() == v1::ToolChoice::MODE_NONE) {
    result.prompt.mutable_chat()->clear_tools();
  }
  result.options = std::move(*request.mutable_options());
  if (result.prompt.chat().tools_size() > 0) {
    result.tools = std::make_shared<ToolPolicy>();
    for (const v1::Tool& tool : result.prompt.chat().tools()) {
      result.tools->names.push_back(tool.name());
    }
    result.tools->single_call = request.has_parallel_tool_calls() && !request.parallel_tool_calls();
  }
  return result;
}

absl::StatusOr<GenerateRequest> ValidateComplete(v1::CompleteRequest request,
                                                 const RequestLimits& limits) {
  QS_RETURN_IF_ERROR(CheckNames(request.model(), request.request_id(), limits));
  GenerateRequest result;
  switch (request.prompt_case()) {
    case v1::CompleteRequest::kText:
      if (request.text().empty()) return InvalidField("text", "must not be empty");
      QS_RETURN_IF_ERROR(AtMost("text", request.text().size(), limits.max_input_bytes, "bytes"));
      if (request.echo()) result.echo_text = request.text();
      result.prompt.set_text(std::move(*request.mutable_text()));
      break;
    case v1::CompleteRequest::kTokenIds:
      if (request.token_ids().ids().empty()) return InvalidField("token_ids", "must not be empty");
      QS_RETURN_IF_ERROR(
          AtMost("token_ids", request.token_ids().ByteSizeLong(), limits.max_input_bytes, "bytes"));
      if (request.echo()) return NotBuiltYet("echo");
      *result.prompt.mutable_token_ids() = std::move(*request.mutable_token_ids());
      break;
    case v1::CompleteRequest::PROMPT_NOT_SET:
      return InvalidField("prompt", "text or token_ids is required");
  }
  QS_RETURN_IF_ERROR(CheckOptions(request.options(), limits));
  if (request.has_prompt_logprobs()) {
    QS_RETURN_IF_ERROR(
        InRange("prompt_logprobs", request.prompt_logprobs(), 0, limits.max_top_logprobs));
    result.prompt_logprobs = request.prompt_logprobs();
  }
  result.model = request.model();
  result.request_id = request.request_id();
  result.options = std::move(*request.mutable_options());
  return result;
}

absl::Status ValidateTokenize(const v1::TokenizeRequest& request, const RequestLimits& limits) {
  QS_RETURN_IF_ERROR(CheckNames(request.model(), "", limits));
  switch (request.input_case()) {
    case v1::TokenizeRequest::kText:
      return AtMost("text", request.text().size(), limits.max_input_bytes, "bytes");
    case v1::TokenizeRequest::kChat:
      return CheckInput(request.chat(), "chat", limits);
    case v1::TokenizeRequest::INPUT_NOT_SET:
      break;
  }
  return InvalidField("input", "text or chat is required");
}

absl::Status ValidateDetokenize(const v1::DetokenizeTextRequest& request,
                                const RequestLimits& limits) {
  QS_RETURN_IF_ERROR(CheckNames(request.model(), "", limits));
  return AtMost("token_ids", request.ByteSizeLong(), limits.max_input_bytes, "bytes");
}

absl::Status WithClientPaths(const absl::Status& status, const std::string& chat_path) {
  const std::string url =
      absl::StrCat("type.googleapis.com/", google::rpc::BadRequest::descriptor()->full_name());
  google::rpc::BadRequest bad_request;
  const auto payload = status.GetPayload(url);
  if (!payload || !bad_request.ParseFromString(std::string(*payload))) return status;
  std::string message(status.message());
  for (auto& violation : *bad_request.mutable_field_violations()) {
    const std::string field = violation.field();
    const std::string head = field.substr(0, field.find_first_of(".["));
    if (v1::ChatInput::descriptor()->FindFieldByName(head) == nullptr) continue;
    violation.set_field(absl::StrCat(chat_path, ".", field));
    if (absl::StartsWith(message, field)) message = absl::StrCat(chat_path, ".", message);
  }
  absl::Status result(status.code(), message);
  status.ForEachPayload(
      [&](absl::string_view type, const absl::Cord& value) { result.SetPayload(type, value); });
  result.SetPayload(url, absl::Cord(bad_request.SerializeAsString()));
  return result;
}

}  // namespace qwenserve
