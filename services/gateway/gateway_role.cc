#include "services/gateway/gateway_role.h"

#include <utility>

#include "engine/base/status_macros.h"

namespace qwenserve {

absl::StatusOr<std::unique_ptr<ServerRole>> GatewayRole::Create(GatewayOptions options,
                                                                ServerContext& context) {
  for (const auto* list : {&options.tokenizers, &options.generators}) {
    for (const std::string& source : *list) QS_RETURN_IF_ERROR(CheckWorkerSource(source));
  }
  QS_RETURN_IF_ERROR(CheckDnsServer(options.discovery.dns.server));
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
