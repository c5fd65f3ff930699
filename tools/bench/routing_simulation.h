#ifndef QWENSERVE_TOOLS_BENCH_ROUTING_SIMULATION_H_
#define QWENSERVE_TOOLS_BENCH_ROUTING_SIMULATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace qwenserve {

// Many replicas and gateways in virtual time, to compare ways to choose a replica.
//
// Real: the gateways' placement queue, router, prefix directory, accounts of load and health; the
// replicas' scheduler, prefix cache and statistics (SimReplica). Simulated: time, clients, the
// network (no delay), and what a session does: heartbeats every 500 ms, each replica at its own
// phase, are all that a gateway knows of the other gateways' work. The same seed gives the same
// result, to the last request.
//
// Clients hold conversations of several turns that begin with one of many shared system prompts
// (Zipf). They come whether answers come or not (open loop), each turn at a gateway drawn anew
// with the probability `roaming`.

enum class RoutingPolicy {
  kRoundRobin,  // each gateway goes round by itself
  kRandom,
  kLeastLoad,   // the least outstanding tokens
  kPowerOfTwo,  // our rule without prefixes
  kHomeOnly,    // our rule without the directory of known prefixes
  kOurs,
};
const char* RoutingPolicyName(RoutingPolicy policy);

struct RoutingScenario {
  uint64_t seed = 1;
  RoutingPolicy policy = RoutingPolicy::kOurs;
  int replicas = 64;
  int gateways = 4;
  absl::Duration length = absl::Seconds(60);   // in which requests come
  absl::Duration warm_up = absl::Seconds(15);  // whose requests are not counted
  double conversations_per_second = 20;
  double mean_turns = 5;
  double roaming = 0.5;
  int groups = 256;             // system prompts, of 512 to 2048 tokens
  int64_t cache_blocks = 4096;  // of 16 tokens, per replica
  // Each of its steps takes five times as long, from a quarter of the length on.
  bool one_slow = true;
  // Dies in the middle, and is back, empty, after a fifth of the length.
  bool one_dies = true;
  bool eject = true;  // outlier ejection is on
};

struct RoutingResult {
  int64_t requests = 0;  // counted ones, all of which got their first token
  int64_t failed = 0;
  double hit_rate = 0;  // of prompt tokens that the cache gave
  absl::Duration ttft_p50, ttft_p99;
  int64_t resubmitted = 0;
  int ejections = 0;
  uint64_t digest = 0;  // of who served what when
};

RoutingResult SimulateRouting(const RoutingScenario& scenario);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_ROUTING_SIMULATION_H_
