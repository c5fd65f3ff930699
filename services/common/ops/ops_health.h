#ifndef QWENSERVE_SERVICES_COMMON_OPS_OPS_HEALTH_H_
#define QWENSERVE_SERVICES_COMMON_OPS_OPS_HEALTH_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "services/common/ops/health_service.h"

namespace qwenserve {

// grpc.health.v1 for connections of the ops port, in plaintext and from the start of the process
// on: a kubelet's gRPC probe has no certificates, and begins before a model is loaded. Nothing else
// is served, not even reflection. Thread-safe.
class OpsHealth {
 public:
  // `health` must live longer. INTERNAL when gRPC refuses.
  static absl::StatusOr<std::unique_ptr<OpsHealth>> Start(HealthService* health);
  // Ends all calls.
  ~OpsHealth();

  // Takes over a connection of which `received` has been read.
  void Take(int fd, const std::string& received);

 private:
  OpsHealth() = default;

  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_OPS_OPS_HEALTH_H_
