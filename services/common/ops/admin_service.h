#ifndef QWENSERVE_SERVICES_COMMON_OPS_ADMIN_SERVICE_H_
#define QWENSERVE_SERVICES_COMMON_OPS_ADMIN_SERVICE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "qwenserve/v1/admin.grpc.pb.h"

namespace qwenserve {

// The Admin service of any process. Without names in `clients` it lets everyone in: register it on
// loopback only then. With them it answers whoever has proved by mTLS to have one, and others with
// PERMISSION_DENIED.
class AdminService : public v1::Admin::CallbackService {
 public:
  struct Hooks {
    std::function<void(v1::GetStatusResponse*)> fill_status;
    std::function<void(uint32_t max_requests, v1::ListRequestsResponse*)> list_requests;
    // nullopt: the timeout that the process was started with.
    std::function<void(std::optional<absl::Duration> timeout)> drain;
  };

  // `clients`: DNS names and URIs of certificates.
  AdminService(Hooks hooks, std::vector<std::string> clients);

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;
  grpc::ServerUnaryReactor* ListRequests(grpc::CallbackServerContext* context,
                                         const v1::ListRequestsRequest* request,
                                         v1::ListRequestsResponse* response) override;

 private:
  absl::Status Check(const grpc::CallbackServerContext& context) const;

  const Hooks hooks_;
  const std::vector<std::string> clients_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_OPS_ADMIN_SERVICE_H_
