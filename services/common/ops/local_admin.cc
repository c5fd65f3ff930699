#include "services/common/ops/local_admin.h"

#include <chrono>
#include <utility>

#include "absl/status/status.h"
#include "engine/base/status_macros.h"
#include "grpcpp/security/server_credentials.h"
#include "kernels/check.h"
#include "services/common/grpc_settings.h"

namespace qwenserve {
namespace {

// Of operators and their tools.
constexpr int64_t kMaxLocalConnections = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<LocalAdmin>> LocalAdmin::Start(ListenSocket socket, bool reflection,
                                                              AdminService::Hooks hooks) {
  QS_CHECK(socket.loopback);
  std::unique_ptr<LocalAdmin> admin(new LocalAdmin(std::move(hooks)));
  grpc::ServerBuilder builder;
  ApplyServerSettings(builder, Exposure::kPublic);
  if (!reflection) TurnOffReflection(builder);
  builder.RegisterService(&admin->service_);
  admin->acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  admin->server_ = builder.BuildAndStart();
  if (admin->server_ == nullptr) return absl::InternalError("gRPC refuses to start");
  AcceptLoop::Options options;
  options.max_connections = kMaxLocalConnections;
  auto take = [raw = admin.get()](int fd, const std::string&) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = fd;
    raw->acceptor_->HandleNewConnection(&connection);
  };
  QS_ASSIGN_OR_RETURN(admin->accept_loop_,
                      AcceptLoop::Start(std::move(socket), options, std::move(take)));
  return admin;
}

LocalAdmin::~LocalAdmin() {
  accept_loop_.reset();
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

}  // namespace qwenserve
