#ifndef QWENSERVE_SERVICES_COMMON_OPS_LOCAL_ADMIN_H_
#define QWENSERVE_SERVICES_COMMON_OPS_LOCAL_ADMIN_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "services/common/net/accept_loop.h"
#include "services/common/net/listen_socket.h"
#include "services/common/ops/admin_service.h"

namespace qwenserve {

// The Admin service on a loopback port of its own, in plaintext: for whoever has a shell on the
// machine or in the pod, while the gRPC port is for clients and other machines.
class LocalAdmin {
 public:
  // `socket` is on loopback.
  static absl::StatusOr<std::unique_ptr<LocalAdmin>> Start(ListenSocket socket, bool reflection,
                                                           AdminService::Hooks hooks);
  // Cuts off the calls under way.
  ~LocalAdmin();

  const std::string& address() const { return accept_loop_->address(); }

 private:
  explicit LocalAdmin(AdminService::Hooks hooks) : service_(std::move(hooks), {}) {}

  AdminService service_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<AcceptLoop> accept_loop_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_OPS_LOCAL_ADMIN_H_
