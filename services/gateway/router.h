#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTER_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace qwenserve {

// Which replica gets a request. Pure functions of what the gateway knows, so that several gateways
// with the same view decide alike without talking.

struct ReplicaView {
  std::string instance_id;
  // Prompt tokens not worked on yet plus an estimate of the tokens still to be produced.
  uint64_t outstanding_tokens = 0;
  // It may take this request now.
  bool has_room = false;
};

// The hash that names a prompt's beginning, or nullopt for a prompt so short that computing it
// anew costs less than an uneven load. `block_hashes` are chained, one per `block_tokens` ids, so
// every later turn of a conversation has the same value.
std::optional<uint64_t> AffinityKey(absl::Span<const uint64_t> block_hashes, uint32_t block_tokens);

// Index in `replicas`, or nullopt when none has room. With a key: rendezvous hashing, passing over
// replicas which have no room or whose load with the request would exceed 1.25 times the mean;
// without a key, or when all are passed over: the least outstanding tokens, ties by rendezvous.
std::optional<size_t> ChooseReplica(absl::Span<const ReplicaView> replicas,
                                    std::optional<uint64_t> key, uint64_t request_tokens);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTER_H_
