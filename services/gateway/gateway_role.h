#ifndef QWENSERVE_SERVICES_GATEWAY_GATEWAY_ROLE_H_
#define QWENSERVE_SERVICES_GATEWAY_GATEWAY_ROLE_H_

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "services/common/server_main.h"
#include "services/gateway/gateway.h"
#include "services/gateway/grpc/gateway_service.h"
#include "services/gateway/http/http_server.h"
#include "services/gateway/http/openai_api.h"
#include "services/gateway/metrics/edge_metrics.h"
#include "services/gateway/metrics/gateway_metrics.h"

namespace qwenserve {

struct HttpEdgeOptions {
  std::string listen = "127.0.0.1:8080";  // HOST:PORT; empty: no HTTP
  OpenAiOptions api;
  HttpServer::Options server;
};

// Sets all that --trusted-proxies and --proxy-protocol (off, grpc, http or both) mean.
// INVALID_ARGUMENT for what is no network, and for a protocol that nobody may speak.
absl::Status TrustProxies(const std::vector<std::string>& networks, absl::string_view protocol,
                          ServerOptions* server, GatewayOptions* gateway, HttpEdgeOptions* http);

// The gateway as a process.
class GatewayRole final : public ServerRole {
 public:
  // INVALID_ARGUMENT for a malformed address of a worker or of the DNS server, UNAVAILABLE when the
  // HTTP port cannot be had.
  static absl::StatusOr<std::unique_ptr<ServerRole>> Create(GatewayOptions options,
                                                            const HttpEdgeOptions& http,
                                                            ServerContext& context);

  GatewayRole(const GatewayOptions& options, const OpenAiOptions& api, ServerContext& context);

  std::vector<grpc::Service*> services() override { return {&service_}; }
  void OnListening(const std::string& address) override {}
  void OnDrain(absl::Duration time_left) override;
  void OnStopAccepting() override;
  int64_t InFlight() override;
  // A client's stream is a request, which the drain waits for; what is left is cut off.
  void CloseStreams() override;
  void FillStatus(v1::GetStatusResponse* status) override { gateway_.FillStatus(status); }
  void ListRequests(uint32_t max_requests, v1::ListRequestsResponse* response) override {
    gateway_.ListRequests(max_requests, response);
  }

 private:
  absl::Status StartHttp(const HttpEdgeOptions& http);
  void UpdateHttpMetrics();
  void OnCatalog(const ModelCatalog& catalog);

  ServerContext& context_;
  GatewayMetrics metrics_;
  std::set<std::string> announced_;  // models that health knows; one OnCatalog at a time
  Gateway gateway_;
  GatewayService service_;
  HttpMetrics http_metrics_;
  OpenAiApi api_;
  std::unique_ptr<HttpServer> http_;  // null without HTTP
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_GATEWAY_ROLE_H_
