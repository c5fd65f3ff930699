#include "services/common/ops/admin_service.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "grpcpp/security/auth_context.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"
#include "services/common/logging.h"
#include "services/common/proto_time.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr uint32_t kDefaultRequests = 100;
constexpr uint32_t kMaxRequests = 10000;

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context,
                                const absl::Status& status = absl::OkStatus()) {
  auto* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

AdminService::AdminService(Hooks hooks, std::vector<std::string> clients)
    : hooks_(std::move(hooks)), clients_(std::move(clients)) {}

absl::Status AdminService::Check(const grpc::CallbackServerContext& context) const {
  if (clients_.empty()) return absl::OkStatus();
  const std::shared_ptr<const grpc::AuthContext> peer = context.auth_context();
  if (peer->IsPeerAuthenticated()) {
    // As gRPC names what it has read from a certificate that it has verified.
    for (const char* kind : {"peer_dns", "peer_uri"}) {
      for (const grpc::string_ref& name : peer->FindPropertyValues(kind)) {
        const std::string text(name.data(), name.size());
        if (std::find(clients_.begin(), clients_.end(), text) != clients_.end()) {
          return absl::OkStatus();
        }
      }
    }
  }
  return WithReason(absl::PermissionDeniedError(
                        "the client's certificate has none of the names in --admin-client-names"),
                    kReasonNotGranted);
}

grpc::ServerUnaryReactor* AdminService::GetStatus(grpc::CallbackServerContext* context,
                                                  const v1::GetStatusRequest*,
                                                  v1::GetStatusResponse* response) {
  if (absl::Status status = Check(*context); !status.ok()) return Reply(context, status);
  hooks_.fill_status(response);
  return Reply(context);
}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context,
                                              const v1::DrainRequest* request, v1::DrainResponse*) {
  if (absl::Status status = Check(*context); !status.ok()) return Reply(context, status);
  std::optional<absl::Duration> timeout;
  if (request->has_timeout()) {
    timeout = FromProtoDuration(request->timeout());
    if (*timeout < absl::ZeroDuration()) {
      return Reply(context, InvalidField("timeout", "must not be negative"));
    }
  }
  hooks_.drain(timeout);
  return Reply(context);
}

grpc::ServerUnaryReactor* AdminService::SetLogLevel(grpc::CallbackServerContext* context,
                                                    const v1::SetLogLevelRequest* request,
                                                    v1::SetLogLevelResponse* response) {
  if (absl::Status status = Check(*context); !status.ok()) return Reply(context, status);
  response->set_previous_level(LogLevel());
  const absl::Status status = qwenserve::SetLogLevel(request->level());
  if (!status.ok()) return Reply(context, InvalidField("level", status.message()));
  spdlog::info("log level is {} now", request->level());
  return Reply(context);
}

grpc::ServerUnaryReactor* AdminService::ListRequests(grpc::CallbackServerContext* context,
                                                     const v1::ListRequestsRequest* request,
                                                     v1::ListRequestsResponse* response) {
  if (absl::Status status = Check(*context); !status.ok()) return Reply(context, status);
  const uint32_t wanted = request->max_requests();
  hooks_.list_requests(wanted == 0 ? kDefaultRequests : std::min(wanted, kMaxRequests), response);
  return Reply(context);
}

}  // namespace qwenserve
