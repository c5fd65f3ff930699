#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_ROUTER_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_ROUTER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "services/gateway/routing/prefix_directory.h"

namespace qwenserve {

// Which replica gets a request. Pure functions of what the gateway knows, so that several gateways
// with the same view give the same prefix the same home without talking.

struct ReplicaView {
  std::string instance_id;
  // Prompt tokens not worked on yet plus an estimate of the tokens still to be produced.
  uint64_t outstanding_tokens = 0;
  // It may take this request now.
  bool has_room = false;
  // Of the load that others get, in (0, 1]: less for one that has just come.
  double share = 1;
};

struct RouteQuery {
  // Names the prompt's beginning; nullopt for a prompt so short that computing it anew costs less
  // than an uneven load.
  std::optional<uint64_t> key;
  // Who had longer beginnings of it last, longest first.
  std::vector<PrefixDirectory::Known> known;
  // The request's prompts and expected answers.
  uint64_t tokens = 0;
  // Different for each request and gateway.
  uint64_t salt = 0;
};

enum class RouteReason { kKnownPrefix, kHome, kLeastLoad };

struct Route {
  size_t replica = 0;  // index
  RouteReason reason = RouteReason::kLeastLoad;
};

// nullopt when none has room. In this order:
// 1. The replica that had the longest beginning of the prompt, if within the bound.
// 2. With a key: rendezvous hashing over the replicas, passing over those not within the bound.
// 3. The less loaded of two drawn by `salt` among those with room. Not the least loaded of all:
//    views are up to a heartbeat old, and all gateways would run after the same one.
// Within the bound: has room, and its load with the request is at most 1.25 times its share of all
// load plus 4096 tokens, or it is idle.
std::optional<Route> ChooseReplica(absl::Span<const ReplicaView> replicas, const RouteQuery& query);

// The same in every process and build: FNV-1a over the text, finalised with the number.
uint64_t StableHash(uint64_t number, absl::string_view text);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_ROUTER_H_
