#ifndef QWENSERVE_TOOLS_BENCH_STEP_LOG_H_
#define QWENSERVE_TOOLS_BENCH_STEP_LOG_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "engine/schedule/request.h"

namespace qwenserve {

// Notes when each step of an engine delivered how many tokens. Give OnStep to Engine::Create.
// Thread-safe.
class StepLog {
 public:
  using Clock = std::chrono::steady_clock;
  struct Step {
    Clock::time_point time;
    int64_t tokens = 0;
    absl::Duration duration;  // of the forward pass and its sampling
  };

  void OnStep(const StepEvents& events);

  // While the caller keeps it, no step is noted, so the engine halts after some steps: the first
  // sequences of a batch cannot end before the last one is submitted.
  [[nodiscard]] std::unique_lock<std::mutex> HoldSteps() {
    return std::unique_lock<std::mutex>(mutex_);
  }

  // Waits until `count` sequences have ended; the steps until then, and the first error among them.
  std::vector<Step> Take(int64_t count, absl::Status* error);

 private:
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<Step> steps_;
  int64_t finished_ = 0;
  absl::Status error_;
};

// A greedy sequence of `tokens` tokens that no eos ends. The ids of the prompt depend on `seed`
// from the first one on, so that no two seeds share a cached prefix.
SequenceRequest BenchRequest(int64_t vocab_size, int64_t prompt, int64_t tokens, int64_t seed);

inline double Seconds(StepLog::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_STEP_LOG_H_
