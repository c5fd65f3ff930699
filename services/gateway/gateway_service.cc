#include "services/gateway/gateway_service.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/common/error_details.h"
#include "services/gateway/call_reactors.h"
#include "services/gateway/detokenize_call.h"

namespace qwenserve {
namespace {

// The life of a small unary call: a place at the gateway's door, metrics, exactly one Finish.
// Shared by the callbacks that end it.
class UnaryCall {
 public:
  UnaryCall(grpc::CallbackServerContext* context, Gateway& gateway, GatewayMetrics::Method method)
      : reactor_(context->DefaultReactor()),
        gateway_(gateway),
        method_(method),
        start_(MonotonicNow()) {}

  absl::Status Enter(size_t bytes) {
    QS_ASSIGN_OR_RETURN(ticket_, gateway_.admission().Enter(bytes));
    return absl::OkStatus();
  }

  void Finish(const absl::Status& status) {
    GatewayMetrics& metrics = gateway_.metrics();
    metrics.requests[method_].Increment(status.code());
    metrics.duration[method_]->Observe(absl::ToDoubleSeconds(MonotonicNow() - start_));
    ticket_ = Admission::Ticket();
    reactor_->Finish(ToGrpcStatus(status));
  }

  grpc::ServerUnaryReactor* reactor() { return reactor_; }

 private:
  grpc::ServerUnaryReactor* const reactor_;
  Gateway& gateway_;
  const GatewayMetrics::Method method_;
  const absl::Time start_;
  Admission::Ticket ticket_;
};

absl::Time DeadlineFor(const grpc::CallbackServerContext& context, const Gateway& gateway) {
  return std::min(DeadlineOf(context), MonotonicNow() + gateway.options().call.max_request_time);
}

absl::Status StartTokenize(const std::shared_ptr<UnaryCall>& call, Gateway& gateway,
                           absl::Time deadline, const v1::TokenizeRequest& request,
                           v1::TokenizeResponse* response) {
  QS_RETURN_IF_ERROR(ValidateTokenize(request, gateway.options().request_limits));
  QS_RETURN_IF_ERROR(call->Enter(request.ByteSizeLong()));
  QS_ASSIGN_OR_RETURN(const ServedModel model, gateway.catalog()->ResolveForText(request.model()));
  v1::PrepareRequest prepare;
  prepare.set_model(model.name);
  prepare.set_with_pieces(request.with_pieces());
  if (request.has_chat()) {
    *prepare.mutable_chat() = request.chat();
    if (request.chat().tool_choice().mode() == v1::ToolChoice::MODE_NONE) {
      prepare.mutable_chat()->clear_tools();
    }
  } else {
    prepare.set_text(request.text());
  }
  auto done = [call, model, response](absl::StatusOr<v1::PrepareResponse> prepared) {
    if (!prepared.ok()) {
      call->Finish(WithClientPaths(prepared.status(), "chat"));
      return;
    }
    *response->mutable_token_ids() = std::move(*prepared->mutable_prompt_ids());
    *response->mutable_pieces() = std::move(*prepared->mutable_pieces());
    response->set_max_model_len(model.max_model_len);
    call->Finish(absl::OkStatus());
  };
  gateway.text().Prepare(std::move(prepare), model.tokenizer_hash, deadline, std::move(done));
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

absl::Status StartDetokenize(const std::shared_ptr<UnaryCall>& call, Gateway& gateway,
                             grpc::CallbackServerContext* context,
                             const v1::DetokenizeTextRequest& request,
                             v1::DetokenizeTextResponse* response) {
  QS_RETURN_IF_ERROR(ValidateDetokenize(request, gateway.options().request_limits));
  QS_RETURN_IF_ERROR(call->Enter(request.ByteSizeLong()));
  QS_ASSIGN_OR_RETURN(const ServedModel model, gateway.catalog()->ResolveForText(request.model()));
  auto done = [call, response](absl::StatusOr<std::string> text) {
    if (text.ok()) response->set_text(*std::move(text));
    call->Finish(text.status());
  };
  QS_RETURN_IF_ERROR(CheckIds(request.token_ids(), model.vocab_size));
  DetokenizeJob job;
  job.ids.assign(request.token_ids().begin(), request.token_ids().end());
  job.keep_special_tokens = !request.skip_special_tokens();
  job.tokenizer_hash = model.tokenizer_hash;
  job.max_bytes = gateway.options().request_limits.max_detokenized_bytes;
  // gRPC counts a deadline that has passed as a cancellation.
  job.given_up = [context] { return context->IsCancelled(); };
  std::make_shared<DetokenizeCall>(std::move(job), &gateway.text(), std::move(done))->Start();
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* GatewayService::Chat(grpc::CallbackServerContext* context,
                                               const v1::ChatRequest* request,
                                               v1::ChatResponse* response) {
  return UnaryReactor<v1::ChatResponse>::Start(
      context, response, gateway_, GatewayMetrics::kChat,
      ValidateChat(*request, gateway_.options().request_limits), request->ByteSizeLong());
}

grpc::ServerWriteReactor<v1::StreamChatResponse>* GatewayService::StreamChat(
    grpc::CallbackServerContext* context, const v1::ChatRequest* request) {
  return StreamReactor<v1::StreamChatResponse>::Start(
      context, gateway_, GatewayMetrics::kStreamChat,
      ValidateChat(*request, gateway_.options().request_limits), request->ByteSizeLong());
}

grpc::ServerUnaryReactor* GatewayService::Complete(grpc::CallbackServerContext* context,
                                                   const v1::CompleteRequest* request,
                                                   v1::CompleteResponse* response) {
  return UnaryReactor<v1::CompleteResponse>::Start(
      context, response, gateway_, GatewayMetrics::kComplete,
      ValidateComplete(*request, gateway_.options().request_limits), request->ByteSizeLong());
}

grpc::ServerWriteReactor<v1::StreamCompleteResponse>* GatewayService::StreamComplete(
    grpc::CallbackServerContext* context, const v1::CompleteRequest* request) {
  return StreamReactor<v1::StreamCompleteResponse>::Start(
      context, gateway_, GatewayMetrics::kStreamComplete,
      ValidateComplete(*request, gateway_.options().request_limits), request->ByteSizeLong());
}

grpc::ServerUnaryReactor* GatewayService::Tokenize(grpc::CallbackServerContext* context,
                                                   const v1::TokenizeRequest* request,
                                                   v1::TokenizeResponse* response) {
  auto call = std::make_shared<UnaryCall>(context, gateway_, GatewayMetrics::kTokenize);
  const absl::Time deadline = DeadlineFor(*context, gateway_);
  absl::Status status = StartTokenize(call, gateway_, deadline, *request, response);
  if (!status.ok()) call->Finish(status);
  return call->reactor();
}

grpc::ServerUnaryReactor* GatewayService::Detokenize(grpc::CallbackServerContext* context,
                                                     const v1::DetokenizeTextRequest* request,
                                                     v1::DetokenizeTextResponse* response) {
  auto call = std::make_shared<UnaryCall>(context, gateway_, GatewayMetrics::kDetokenize);
  absl::Status status = StartDetokenize(call, gateway_, context, *request, response);
  if (!status.ok()) call->Finish(status);
  return call->reactor();
}

grpc::ServerUnaryReactor* GatewayService::ListModels(grpc::CallbackServerContext* context,
                                                     const v1::ListModelsRequest* request,
                                                     v1::ListModelsResponse* response) {
  UnaryCall call(context, gateway_, GatewayMetrics::kListModels);
  const auto catalog = gateway_.catalog();
  response->mutable_models()->Add(catalog->models().begin(), catalog->models().end());
  call.Finish(absl::OkStatus());
  return call.reactor();
}

grpc::ServerUnaryReactor* GatewayService::GetModel(grpc::CallbackServerContext* context,
                                                   const v1::GetModelRequest* request,
                                                   v1::GetModelResponse* response) {
  UnaryCall call(context, gateway_, GatewayMetrics::kGetModel);
  absl::StatusOr<v1::Model> model = gateway_.catalog()->Find(request->model());
  if (model.ok()) *response->mutable_model() = *std::move(model);
  call.Finish(model.status());
  return call.reactor();
}

}  // namespace qwenserve
