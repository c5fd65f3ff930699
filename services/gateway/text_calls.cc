#include "services/gateway/text_calls.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/call/detokenize_call.h"
#include "services/gateway/call/request_validation.h"

namespace qwenserve {
namespace {

absl::Status StartTokenize(const std::shared_ptr<SmallCall>& call, Gateway& gateway,
                           absl::Time deadline, const absl::StatusOr<v1::TokenizeRequest>& parsed,
                           const std::function<void(absl::StatusOr<v1::TokenizeResponse>)>& done) {
  QS_RETURN_IF_ERROR(call->caller().refusal);
  QS_RETURN_IF_ERROR(parsed.status());
  const auto& request = *parsed;
  QS_RETURN_IF_ERROR(ValidateTokenize(request, gateway.options().request_limits));
  QS_RETURN_IF_ERROR(call->Enter(request.ByteSizeLong()));
  QS_ASSIGN_OR_RETURN(const ServedModel model, gateway.catalog()->ResolveForText(
                                                   request.model(), call->caller().grant.get()));
  call->SetModel(model.name);
  v1::PrepareRequest prepare;
  prepare.set_model(model.name);
  prepare.set_request_id(call->id());
  prepare.set_traceparent(call->caller().traceparent);
  prepare.set_with_pieces(request.with_pieces());
  if (request.has_chat()) {
    *prepare.mutable_chat() = request.chat();
    if (request.chat().tool_choice().mode() == v1::ToolChoice::MODE_NONE) {
      prepare.mutable_chat()->clear_tools();
    }
  } else {
    prepare.set_text(request.text());
  }
  // std::function wants what it holds to be copyable.
  auto span = std::make_shared<Span>(BeginPrepareSpan(call->span(), &prepare));
  auto prepared = [call, model, done, span](absl::StatusOr<v1::PrepareResponse> result) {
    EndPrepareSpan(result.status(), result.ok() ? result->prompt_ids_size() : 0, span.get());
    if (!result.ok()) {
      const absl::Status status = WithClientPaths(result.status(), "chat");
      call->End(status);
      return done(status);
    }
    v1::TokenizeResponse response;
    *response.mutable_token_ids() = std::move(*result->mutable_prompt_ids());
    *response.mutable_pieces() = std::move(*result->mutable_pieces());
    response.set_max_model_len(model.max_model_len);
    call->SetTokens(static_cast<uint32_t>(response.token_ids_size()));
    call->End(absl::OkStatus());
    done(std::move(response));
  };
  const absl::Time latest = MonotonicNow() + gateway.options().call.max_request_time;
  gateway.text().Prepare(std::move(prepare), model.tokenizer_hash, std::min(deadline, latest),
                         std::move(prepared));
  return absl::OkStatus();
}

absl::Status CheckIds(const google::protobuf::RepeatedField<uint32_t>& ids, uint32_t vocab_size) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] < vocab_size) continue;
    return InvalidField(absl::StrCat("token_ids[", i, "]"),
                        absl::StrCat("id ", ids[i], " is not below ", vocab_size));
  }
  return absl::OkStatus();
}

absl::Status StartDetokenize(const std::shared_ptr<SmallCall>& call, Gateway& gateway,
                             std::function<bool()> given_up,
                             const absl::StatusOr<v1::DetokenizeTextRequest>& parsed,
                             const std::function<void(absl::StatusOr<std::string>)>& done) {
  QS_RETURN_IF_ERROR(call->caller().refusal);
  QS_RETURN_IF_ERROR(parsed.status());
  const auto& request = *parsed;
  QS_RETURN_IF_ERROR(ValidateDetokenize(request, gateway.options().request_limits));
  QS_RETURN_IF_ERROR(call->Enter(request.ByteSizeLong()));
  QS_ASSIGN_OR_RETURN(const ServedModel model, gateway.catalog()->ResolveForText(
                                                   request.model(), call->caller().grant.get()));
  call->SetModel(model.name);
  QS_RETURN_IF_ERROR(CheckIds(request.token_ids(), model.vocab_size));
  DetokenizeJob job;
  job.ids.assign(request.token_ids().begin(), request.token_ids().end());
  job.keep_special_tokens = !request.skip_special_tokens();
  job.tokenizer_hash = model.tokenizer_hash;
  job.max_bytes = gateway.options().request_limits.max_detokenized_bytes;
  job.given_up = std::move(given_up);
  auto finished = [call, done](absl::StatusOr<std::string> text) {
    call->End(text.status());
    done(std::move(text));
  };
  std::make_shared<DetokenizeCall>(std::move(job), &gateway.text(), std::move(finished))->Start();
  return absl::OkStatus();
}

}  // namespace

absl::Status SmallCall::Enter(size_t bytes) {
  QS_RETURN_IF_ERROR(caller_.refusal);
  QS_ASSIGN_OR_RETURN(key_ticket_, gateway_.key_limits().Enter(caller_.grant));
  absl::StatusOr<Admission::Ticket> ticket = gateway_.admission().Enter(bytes);
  if (ticket.ok()) {
    ticket_ = *std::move(ticket);
  } else {
    key_ticket_.GiveBack();
  }
  return ticket.status();
}

void SmallCall::End(const absl::Status& status) {
  GatewayMetrics& metrics = gateway_.metrics();
  metrics.requests[method_].Increment(status.code());
  metrics.duration[method_]->Observe(absl::ToDoubleSeconds(MonotonicNow() - start_));
  ticket_ = Admission::Ticket();
  key_ticket_ = KeyLimits::Ticket();
  AccessLog* const access_log = gateway_.services().access_log;
  if (access_log == nullptr && !span_.recording()) return;
  AccessRecord record;
  record.id = id_;
  record.method = GatewayMetrics::MethodName(method_);
  record.model = model_;
  record.status = status;
  record.prompt_tokens = tokens_;
  record.duration = MonotonicNow() - start_;
  EndCallSpan(record, caller_, &span_);
  if (access_log != nullptr) access_log->Write(record, caller_);
}

void RunTokenize(Gateway& gateway, GatewayMetrics::Method method, Caller caller,
                 absl::Time deadline, const absl::StatusOr<v1::TokenizeRequest>& request,
                 std::function<void(absl::StatusOr<v1::TokenizeResponse>)> done) {
  auto call = std::make_shared<SmallCall>(gateway, method, std::move(caller));
  const absl::Status status = StartTokenize(call, gateway, deadline, request, done);
  if (status.ok()) return;
  call->End(status);
  done(status);
}

void RunDetokenize(Gateway& gateway, GatewayMetrics::Method method, Caller caller,
                   std::function<bool()> given_up,
                   const absl::StatusOr<v1::DetokenizeTextRequest>& request,
                   std::function<void(absl::StatusOr<std::string>)> done) {
  auto call = std::make_shared<SmallCall>(gateway, method, std::move(caller));
  const absl::Status status = StartDetokenize(call, gateway, std::move(given_up), request, done);
  if (status.ok()) return;
  call->End(status);
  done(status);
}

absl::StatusOr<std::vector<v1::Model>> RunListModels(Gateway& gateway,
                                                     GatewayMetrics::Method method, Caller caller) {
  SmallCall call(gateway, method, std::move(caller));
  const absl::Status status = call.caller().refusal;
  call.End(status);
  if (!status.ok()) return status;
  std::vector<v1::Model> models;
  for (const v1::Model& model : gateway.catalog()->models()) {
    if (call.caller().MayUse(model.id())) models.push_back(model);
  }
  return models;
}

absl::StatusOr<v1::Model> RunGetModel(Gateway& gateway, GatewayMetrics::Method method,
                                      Caller caller, const std::string& name) {
  SmallCall call(gateway, method, std::move(caller));
  absl::StatusOr<v1::Model> model = absl::InternalError("not looked for");
  if (!call.caller().refusal.ok()) {
    model = call.caller().refusal;
  } else {
    model = gateway.catalog()->Find(name, call.caller().grant.get());
  }
  call.End(model.status());
  return model;
}

}  // namespace qwenserve
