#include "services/gateway/gateway_service.h"

#include <memory>
#include <utility>

#include "services/gateway/call_reactors.h"
#include "services/gateway/text_calls.h"

namespace qwenserve {

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
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  RunTokenize(gateway_, GatewayMetrics::kTokenize, DeadlineOf(*context), *request,
              [reactor, response](absl::StatusOr<v1::TokenizeResponse> result) {
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
  RunDetokenize(gateway_, GatewayMetrics::kDetokenize, given_up, *request,
                [reactor, response](absl::StatusOr<std::string> text) {
                  if (text.ok()) response->set_text(*std::move(text));
                  reactor->Finish(ToGrpcStatus(text.status()));
                });
  return reactor;
}

grpc::ServerUnaryReactor* GatewayService::ListModels(grpc::CallbackServerContext* context,
                                                     const v1::ListModelsRequest* request,
                                                     v1::ListModelsResponse* response) {
  SmallCall call(gateway_, GatewayMetrics::kListModels);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto catalog = gateway_.catalog();
  response->mutable_models()->Add(catalog->models().begin(), catalog->models().end());
  call.End(absl::OkStatus());
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* GatewayService::GetModel(grpc::CallbackServerContext* context,
                                                   const v1::GetModelRequest* request,
                                                   v1::GetModelResponse* response) {
  SmallCall call(gateway_, GatewayMetrics::kGetModel);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::StatusOr<v1::Model> model = gateway_.catalog()->Find(request->model());
  if (model.ok()) *response->mutable_model() = *std::move(model);
  call.End(model.status());
  reactor->Finish(ToGrpcStatus(model.status()));
  return reactor;
}

}  // namespace qwenserve
