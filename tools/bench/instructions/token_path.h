#ifndef QWENSERVE_TOOLS_BENCH_INSTRUCTIONS_TOKEN_PATH_H_
#define QWENSERVE_TOOLS_BENCH_INSTRUCTIONS_TOKEN_PATH_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "qwenserve/v1/generator.pb.h"
#include "services/gateway/admission/admission.h"
#include "services/gateway/admission/key_limits.h"
#include "services/gateway/answer/token_texts.h"
#include "services/gateway/call/failover.h"
#include "services/gateway/call/generate_call.h"
#include "services/gateway/metrics/gateway_metrics.h"

namespace qwenserve {

// The way of a token through a gateway without gRPC and sockets: bytes of a step are parsed, each
// event goes to its call, the call's delta is written as bytes. One thread, nothing random, and a
// clock of its own, so that the number of instructions is the same in each run of one binary.
class TokenPath {
 public:
  explicit TokenPath(uint32_t streams);
  ~TokenPath();

  // What a generator does before each step.
  void Prepare();
  // One token for each stream. Returns the bytes written.
  size_t Step();

 private:
  class Sink;
  class Text;
  class Placement;
  class Replica;

  std::string MakeStep() const;
  void OpenStream(uint32_t index);

  Metrics registry_;
  GatewayMetrics metrics_;
  Admission admission_;
  KeyLimits key_limits_;
  RetryBudget retries_;
  std::unique_ptr<Text> text_;
  std::unique_ptr<Placement> placement_;
  absl::Time now_ = absl::UnixEpoch();
  CallServices services_;
  std::vector<std::shared_ptr<Sink>> sinks_;
  std::vector<std::shared_ptr<GenerateCall>> calls_;
  uint32_t tokens_ = 0;  // of each stream
  std::string step_;     // the next one's bytes
  v1::SessionResponse response_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_INSTRUCTIONS_TOKEN_PATH_H_
