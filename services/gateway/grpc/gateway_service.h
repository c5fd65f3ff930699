#ifndef QWENSERVE_SERVICES_GATEWAY_GRPC_GATEWAY_SERVICE_H_
#define QWENSERVE_SERVICES_GATEWAY_GRPC_GATEWAY_SERVICE_H_

#include <memory>
#include <utility>

#include "qwenserve/v1/inference.grpc.pb.h"
#include "services/common/net/proxied_peers.h"
#include "services/gateway/gateway.h"
#include "services/gateway/grpc/open_calls.h"

namespace qwenserve {

// The public API over gRPC: hands each request to the gateway, holds no logic of its own.
class GatewayService final : public v1::Inference::CallbackService {
 public:
  // `gateway` outlives the calls. `proxied`: whom trusted proxies speak for; null: none.
  explicit GatewayService(Gateway* gateway, std::shared_ptr<const ProxiedPeers> proxied = nullptr)
      : gateway_(*gateway),
        proxied_(std::move(proxied)),
        open_calls_(std::make_shared<OpenCalls>(gateway->options().max_concurrent_streams,
                                                &gateway->metrics().peers_at_stream_limit)) {}

  grpc::ServerUnaryReactor* Chat(grpc::CallbackServerContext* context,
                                 const v1::ChatRequest* request,
                                 v1::ChatResponse* response) override;
  grpc::ServerWriteReactor<v1::StreamChatResponse>* StreamChat(
      grpc::CallbackServerContext* context, const v1::ChatRequest* request) override;
  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext* context,
                                     const v1::CompleteRequest* request,
                                     v1::CompleteResponse* response) override;
  grpc::ServerWriteReactor<v1::StreamCompleteResponse>* StreamComplete(
      grpc::CallbackServerContext* context, const v1::CompleteRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeTextRequest* request,
                                       v1::DetokenizeTextResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;

 private:
  Caller CallerOf(const grpc::ServerContextBase& context) const;
  template <typename Request>
  IncomingCall Accept(const grpc::CallbackServerContext& context, const Request& request,
                      absl::StatusOr<GenerateRequest> (*validate)(Request,
                                                                  const RequestLimits&)) const;

  Gateway& gateway_;
  const std::shared_ptr<const ProxiedPeers> proxied_;
  const std::shared_ptr<OpenCalls> open_calls_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_GRPC_GATEWAY_SERVICE_H_
