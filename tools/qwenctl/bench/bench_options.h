#ifndef QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_OPTIONS_H_
#define QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <random>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tools/qwenctl/connection.h"

namespace qwenserve {

// How long a prompt or an answer is, in tokens: always the same, or drawn for each request.
class LengthSpec {
 public:
  // "128"; "100:2000", uniform with both ends; "lognormal:MEDIAN:SIGMA", at most 64 medians. All
  // lengths are 1 to 2^20.
  static absl::StatusOr<LengthSpec> Parse(absl::string_view text);

  uint32_t Draw(std::mt19937_64& random) const;

 private:
  enum class Kind { kUniform, kLognormal };
  Kind kind_ = Kind::kUniform;
  uint32_t low_ = 1;  // or the median
  uint32_t high_ = 1;
  double sigma_ = 0;
};

// What a request must keep to count as served well. Not set: anything.
struct GoodputLimits {
  // "ttft:500ms,itl:50ms,e2e:10s", any of them. itl is the mean time between tokens of a request.
  static absl::StatusOr<GoodputLimits> Parse(absl::string_view text);
  bool any() const { return ttft.has_value() || inter_token.has_value() || end_to_end.has_value(); }

  std::optional<absl::Duration> ttft;
  std::optional<absl::Duration> inter_token;
  std::optional<absl::Duration> end_to_end;
};

struct BenchOptions {
  ConnectionOptions connection;
  std::string api = "grpc";  // or http
  std::string model;         // empty: the only one
  bool chat = false;         // the chat API instead of completions
  double timeout_seconds = 600;

  // Requests per second with exponential gaps, whatever becomes of earlier ones; 0: as many at a
  // time as `concurrency` says, each followed by the next.
  double rate = 0;
  uint32_t concurrency = 1;
  uint64_t num_requests = 0;    // 0: no limit
  double duration_seconds = 0;  // in which requests begin; 0: no limit
  uint32_t connections = 1;     // of gRPC; HTTP has one for each request in flight
  uint64_t seed = 0;

  std::string prompt_tokens = "128";
  std::string max_tokens = "64";
  uint32_t prefix_tokens = 0;  // of the prompt, shared within a group
  uint32_t prefix_groups = 1;
  bool stop_at_eos = false;  // else every answer has max_tokens
  int32_t priority = 0;

  std::string goodput;
  double min_goodput = 0.99;  // of the requests
  std::string output = "table";
  bool progress = true;  // when stderr is a terminal

  bool open_loop() const { return rate > 0; }
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_OPTIONS_H_
