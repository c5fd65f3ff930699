#ifndef QWENSERVE_SERVICES_GATEWAY_GATEWAY_ROLE_H_
#define QWENSERVE_SERVICES_GATEWAY_GATEWAY_ROLE_H_

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "services/common/metrics.h"
#include "services/common/server_main.h"
#include "services/gateway/gateway.h"
#include "services/gateway/gateway_service.h"

namespace qwenserve {

// The gateway as a process.
class GatewayRole final : public ServerRole {
 public:
  // INVALID_ARGUMENT for a malformed address of a worker or of the DNS server.
  static absl::StatusOr<std::unique_ptr<ServerRole>> Create(GatewayOptions options,
                                                            ServerContext& context);

  GatewayRole(const GatewayOptions& options, ServerContext& context);

  std::vector<grpc::Service*> services() override { return {&service_}; }
  void OnListening(const std::string& address) override {}
  void OnDrain(absl::Duration time_left) override {}
  int64_t InFlight() override { return gateway_.in_flight(); }
  // A client's stream is a request, which the drain waits for; there are no others.
  void CloseStreams() override {}
  void FillStatus(v1::GetStatusResponse* status) override { gateway_.FillStatus(status); }
  void ListRequests(uint32_t max_requests, v1::ListRequestsResponse* response) override {
    gateway_.ListRequests(max_requests, response);
  }

 private:
  void OnCatalog(const ModelCatalog& catalog);

  ServerContext& context_;
  GatewayMetrics metrics_;
  std::set<std::string> announced_;  // models that health knows; one OnCatalog at a time
  Gateway gateway_;
  GatewayService service_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_GATEWAY_ROLE_H_
