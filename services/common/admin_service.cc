#include "services/common/admin_service.h"

#include <algorithm>
#include <utility>

#include "services/common/error_details.h"
#include "services/common/logging.h"
#include "services/common/proto_time.h"
#include "services/common/status_mapping.h"
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

AdminService::AdminService(Hooks hooks) : hooks_(std::move(hooks)) {}

grpc::ServerUnaryReactor* AdminService::GetStatus(grpc::CallbackServerContext* context,
                                                  const v1::GetStatusRequest*,
                                                  v1::GetStatusResponse* response) {
  hooks_.fill_status(response);
  return Reply(context);
}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context,
                                              const v1::DrainRequest* request, v1::DrainResponse*) {
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
  response->set_previous_level(LogLevel());
  const absl::Status status = qwenserve::SetLogLevel(request->level());
  if (!status.ok()) return Reply(context, InvalidField("level", status.message()));
  spdlog::info("log level is {} now", request->level());
  return Reply(context);
}

grpc::ServerUnaryReactor* AdminService::ListRequests(grpc::CallbackServerContext* context,
                                                     const v1::ListRequestsRequest* request,
                                                     v1::ListRequestsResponse* response) {
  const uint32_t wanted = request->max_requests();
  hooks_.list_requests(wanted == 0 ? kDefaultRequests : std::min(wanted, kMaxRequests), response);
  return Reply(context);
}

}  // namespace qwenserve
