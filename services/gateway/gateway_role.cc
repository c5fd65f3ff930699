#include "services/gateway/gateway_role.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

absl::Status CheckLimits(const GatewayOptions& options) {
  const std::pair<const char*, int64_t> kCounts[] = {
      {"max-requests", options.admission.max_requests},
      {"max-inflight-bytes", options.admission.max_bytes},
      {"max-waiting", options.queue.max_waiting},
      {"credit-window", options.call.credit_window}};
  for (const auto& [flag, value] : kCounts) {
    if (value >= 1) continue;
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " is ", value, ", not at least 1"));
  }
  // All of it travels in one credit.
  if (options.call.credit_window > (1 << 20)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--credit-window is ", options.call.credit_window, ", not at most ", 1 << 20));
  }
  const std::pair<const char*, absl::Duration> kTimes[] = {
      {"max-request-time", options.call.max_request_time},
      {"slow-client-timeout", options.call.slow_client_timeout}};
  for (const auto& [flag, value] : kTimes) {
    if (value > absl::ZeroDuration()) continue;
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " is not above 0"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerRole>> GatewayRole::Create(GatewayOptions options,
                                                                ServerContext& context) {
  for (const auto* list : {&options.tokenizers, &options.generators}) {
    for (const std::string& source : *list) QS_RETURN_IF_ERROR(CheckWorkerSource(source));
  }
  QS_RETURN_IF_ERROR(CheckDnsServer(options.discovery.dns.server));
  QS_RETURN_IF_ERROR(CheckLimits(options));
  options.instance_id = context.instance_id();
  return std::make_unique<GatewayRole>(options, context);
}

GatewayRole::GatewayRole(const GatewayOptions& options, ServerContext& context)
    : context_(context),
      metrics_(context.metrics()),
      gateway_(options, &metrics_, [this](const ModelCatalog& catalog) { OnCatalog(catalog); }),
      service_(&gateway_) {}

void GatewayRole::OnCatalog(const ModelCatalog& catalog) {
  std::set<std::string> gone = announced_;
  for (const v1::Model& model : catalog.models()) {
    gone.erase(model.id());
    announced_.insert(model.id());
    context_.SetServing(model.id(), catalog.Resolve(model.id()).ok());
  }
  for (const std::string& model : gone) context_.SetServing(model, false);
  // Ready stays: a gateway without workers still gives the right answer, UNAVAILABLE with a hint
  // when to come back, and taking all gateways out of the balancer would give none.
  if (catalog.AnyServed()) context_.SetReady(true);
}

}  // namespace qwenserve
