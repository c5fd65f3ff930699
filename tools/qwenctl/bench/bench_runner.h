#ifndef QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_RUNNER_H_
#define QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_RUNNER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tools/qwenctl/bench/bench_options.h"
#include "tools/qwenctl/bench/bench_plan.h"
#include "tools/qwenctl/bench/bench_recorder.h"
#include "tools/qwenctl/bench/bench_transport.h"

namespace qwenserve {

// Sends the plan's requests at their times, or as earlier ones end, and waits for all of them.
class BenchRunner {
 public:
  BenchRunner(const BenchOptions& options, BenchPlan plan, std::string model,
              BenchTransport* transport, BenchRecorder* recorder);

  // Blocks. `on_tick` is called several times a second, on the caller's thread.
  void Run(const std::function<void()>& on_tick);
  // No new requests, and those under way end. Any thread.
  void Stop();

  // From the first request to the last one's end.
  absl::Duration elapsed() const { return elapsed_; }
  // Of the requests begun, 0 to 1; for a progress bar.
  double Progress() const;

 private:
  void RunOpen(const std::function<void()>& on_tick);
  // Starts one more if the limits allow; for closed loops.
  void StartNext();
  void Send(const PlannedRequest& request, absl::Time intended, std::function<void()> then);
  bool MayStart(uint64_t number) const;

  const BenchOptions options_;
  const std::string model_;
  BenchTransport* const transport_;
  BenchRecorder* const recorder_;
  std::atomic<bool> stopped_{false};
  absl::Time begin_;
  absl::Duration elapsed_;

  mutable absl::Mutex mutex_;
  BenchPlan plan_ ABSL_GUARDED_BY(mutex_);
  uint64_t drawn_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_RUNNER_H_
