#ifndef QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_TRANSPORT_H_
#define QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_TRANSPORT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "tools/qwenctl/bench/bench_options.h"
#include "tools/qwenctl/bench/bench_plan.h"
#include "tools/qwenctl/bench/bench_recorder.h"

namespace qwenserve {

// A protocol that requests are sent by, with threads of its own. Not thread-safe but for Start,
// which any thread may call, also from within `done`.
class BenchTransport {
 public:
  virtual ~BenchTransport() = default;
  struct Target {
    std::string model;
    uint32_t vocab_size = 0;
  };
  // What the server serves; NOT_FOUND without the model that was asked for.
  virtual absl::StatusOr<Target> Find(const std::string& model) = 0;
  // Sends one request and returns at once. `call` hears of its tokens and end; after that comes
  // `done`.
  virtual void Start(const PlannedRequest& request, const std::string& model,
                     BenchRecorder::Call call, std::function<void()> done) = 0;
  // Ends what is under way; every `done` still comes.
  virtual void CancelAll() = 0;
};

// `connection` outlives them.
std::unique_ptr<BenchTransport> MakeGrpcTransport(const BenchOptions& options,
                                                  const Connection& connection);
std::unique_ptr<BenchTransport> MakeHttpTransport(const BenchOptions& options,
                                                  const Connection& connection);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_TRANSPORT_H_
