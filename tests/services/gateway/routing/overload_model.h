#ifndef QWENSERVE_TESTS_SERVICES_GATEWAY_ROUTING_OVERLOAD_MODEL_H_
#define QWENSERVE_TESTS_SERVICES_GATEWAY_ROUTING_OVERLOAD_MODEL_H_

#include <cstdint>

#include "absl/time/time.h"
#include "services/gateway/routing/placement_queue.h"

namespace qwenserve {

// A gateway's admission and queue, the real ones, between clients and replicas that are formulas,
// in virtual time: minutes of overload in a second, the same for the same seed.

struct OverloadOptions {
  uint32_t seed = 1;
  size_t replicas = 4;
  uint32_t max_running = 32;
  uint32_t max_batch_tokens = 2048;
  // What an engine step takes: itself, for each running sequence, for each prompt token in it.
  absl::Duration step = absl::Milliseconds(10);
  absl::Duration per_sequence = absl::Microseconds(200);
  absl::Duration per_prompt_token = absl::Microseconds(20);

  // Poisson arrivals; prompts and answers are exponentially distributed, answers end at max_tokens.
  double requests_per_second = 1;
  double mean_prompt = 200;
  double mean_answer = 64;
  uint32_t max_tokens = 512;
  // Each request has one of them; its client has gone when it is over.
  absl::Duration short_deadline = absl::Seconds(4);
  absl::Duration long_deadline = absl::Seconds(10);

  absl::Duration warm_up = absl::Seconds(20);
  absl::Duration measured = absl::Seconds(60);
  PlacementQueue::Settings queue;
  // For comparison: deadlines are the clients' business alone.
  bool hide_deadlines = false;
};

// Of the requests that came in the measured time.
struct OverloadResult {
  uint64_t requests = 0;
  uint64_t in_time = 0;
  uint64_t refused = 0;
  uint64_t late = 0;                  // accepted, and not complete at the deadline
  double good_tokens_per_second = 0;  // of answers complete in time
  absl::Duration refusal_p99;         // from arrival to refusal
  size_t most_waiting = 0;
  // Of everything, after the last request has ended.
  int64_t left_behind = 0;
};

OverloadResult RunOverload(const OverloadOptions& options);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_GATEWAY_ROUTING_OVERLOAD_MODEL_H_
