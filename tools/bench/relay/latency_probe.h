#ifndef QWENSERVE_TOOLS_BENCH_RELAY_LATENCY_PROBE_H_
#define QWENSERVE_TOOLS_BENCH_RELAY_LATENCY_PROBE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace qwenserve {

struct ProbeOptions {
  std::string tokenizer;  // whose model and hash the source claims
  double step_ms = 20;
  uint32_t streams = 64;  // on one connection
  uint32_t tokens = 250;  // of each stream
};

// Prints `source ADDRESS`, where relays find a generator, and then for each address that comes on
// stdin, one per line, as JSON how long tokens take from the source through the relay there to a
// client: {"p50_us", "p99_us", "tokens"}. Ends with stdin.
absl::Status RunLatencyProbe(const ProbeOptions& options);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_RELAY_LATENCY_PROBE_H_
