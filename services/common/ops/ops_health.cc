#include "services/common/ops/ops_health.h"

#include <chrono>

#include "grpcpp/security/server_credentials.h"
#include "services/common/grpc_settings.h"

namespace qwenserve {
namespace {

constexpr int kMaxHealthMessageBytes = 4096;
constexpr int kMaxStreams = 8;  // of one connection
constexpr int kHandshakeMs = 5'000;
constexpr int kIdleMs = 60'000;

}  // namespace

absl::StatusOr<std::unique_ptr<OpsHealth>> OpsHealth::Start(HealthService* health) {
  std::unique_ptr<OpsHealth> self(new OpsHealth());
  grpc::ServerBuilder builder;
  ApplyServerSettings(builder, Exposure::kPublic, {.max_concurrent_streams = kMaxStreams});
  TurnOffReflection(builder);
  builder.SetMaxReceiveMessageSize(kMaxHealthMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleMs);
  builder.RegisterService(health);
  self->acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  self->server_ = builder.BuildAndStart();
  if (self->server_ == nullptr) {
    return absl::InternalError("gRPC refuses to start for the ops port");
  }
  return self;
}

OpsHealth::~OpsHealth() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

void OpsHealth::Take(int fd, const std::string& received) {
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
  connection.fd = fd;
  grpc::Slice slice(received);
  connection.read_buffer = grpc::ByteBuffer(&slice, 1);
  acceptor_->HandleNewConnection(&connection);
}

}  // namespace qwenserve
