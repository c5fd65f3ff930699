#include "services/gateway/grpc/gateway_service.h"

#include <memory>
#include <utility>

#include "services/gateway/grpc/call_reactors.h"
#include "services/gateway/grpc/grpc_caller.h"
#include "services/gateway/text_calls.h"

namespace qwenserve {
Caller GatewayService::CallerOf(const grpc::ServerContextBase& context) const {
  return FindCaller(context, gateway_.authenticator(), proxied_.get());
}

// Credentials first: a stranger's request is not even looked at.
template <typename Request>
IncomingCall GatewayService::Accept(
    const grpc::CallbackServerContext& context, const Request& request,
    absl::StatusOr<GenerateRequest> (*validate)(Request, const RequestLimits&)) const {
  Caller caller = CallerOf(context);
  const size_t bytes = request.ByteSizeLong();
  // gRPC keeps its request, which is no constant, as long as the stream: the prompt would be there
  // twice.
  Request own = std::move(const_cast<Request&>(request));
  absl::StatusOr<GenerateRequest> valid =
      caller.refusal.ok() ? validate(std::move(own), gateway_.options().request_limits)
                          : caller.refusal;
  return {std::move(caller), std::move(valid), bytes,
          open_calls_->Open(SocketOfPeer(context.peer()))};
}

grpc::ServerUnaryReactor* GatewayService::Chat(grpc::CallbackServerContext* context,
                                               const v1::ChatRequest* request,
                                               v1::ChatResponse* response) {
  return UnaryReactor<v1::ChatResponse>::Start(context, response, gateway_, GatewayMetrics::kChat,
                                               Accept(*context, *request, ValidateChat));
}

grpc::ServerWriteReactor<v1::StreamChatResponse>* GatewayService::StreamChat(
    grpc::CallbackServerContext* context, const v1::ChatRequest* request) {
  return StreamReactor<v1::StreamChatResponse>::Start(
      context, gateway_, GatewayMetrics::kStreamChat, Accept(*context, *request, ValidateChat));
}

grpc::ServerUnaryReactor* GatewayService::Complete(grpc::CallbackServerContext* context,
                                                   const v1::CompleteRequest* request,
                                                   v1::CompleteResponse* response) {
  return UnaryReactor<v1::CompleteResponse>::Start(context, response, gateway_,
                                                   GatewayMetrics::kComplete,
                                                   Accept(*context, *request, ValidateComplete));
}

grpc::ServerWriteReactor<v1::StreamCompleteResponse>* GatewayService::StreamComplete(
    grpc::CallbackServerContext* context, const v1::CompleteRequest* request) {
  return StreamReactor<v1::StreamCompleteResponse>::Start(
      context, gateway_, GatewayMetrics::kStreamComplete,
      Accept(*context, *request, ValidateComplete));
}

grpc::ServerUnaryReactor* GatewayService::Tokenize(grpc::CallbackServerContext* context,
                                                   const v1::TokenizeRequest* request,
                                                   v1::TokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  RunTokenize(gateway_, GatewayMetrics::kTokenize, CallerOf(*context), DeadlineOf(*context),
              *request, [reactor, response](absl::StatusOr<v1::TokenizeResponse> result) {
                if (result.ok()) *response = *std::move(result);
                reactor->Finish(ToGrpcStatus(result.status()));
              });
  return reactor;
}

grpc::ServerUnaryReactor* GatewayService::Detokenize(grpc::CallbackServerContext* context,
                                                     const v1::DetokenizeTextRequest* request,
                                                     v1::DetokenizeTextResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  // gRPC counts a deadline that has passed as a cancellation.
  auto given_up = [context] { return context->IsCancelled(); };
  RunDetokenize(gateway_, GatewayMetrics::kDetokenize, CallerOf(*context), given_up, *request,
                [reactor, response](absl::StatusOr<std::string> text) {
                  if (text.ok()) response->set_text(*std::move(text));
                  reactor->Finish(ToGrpcStatus(text.status()));
                });
  return reactor;
}

grpc::ServerUnaryReactor* GatewayService::ListModels(grpc::CallbackServerContext* context,
                                                     const v1::ListModelsRequest* request,
                                                     v1::ListModelsResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto models = RunListModels(gateway_, GatewayMetrics::kListModels, CallerOf(*context));
  if (models.ok()) response->mutable_models()->Add(models->begin(), models->end());
  reactor->Finish(ToGrpcStatus(models.status()));
  return reactor;
}

grpc::ServerUnaryReactor* GatewayService::GetModel(grpc::CallbackServerContext* context,
                                                   const v1::GetModelRequest* request,
                                                   v1::GetModelResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::StatusOr<v1::Model> model =
      RunGetModel(gateway_, GatewayMetrics::kGetModel, CallerOf(*context), request->model());
  if (model.ok()) *response->mutable_model() = *std::move(model);
  reactor->Finish(ToGrpcStatus(model.status()));
  return reactor;
}

}  // namespace qwenserve
