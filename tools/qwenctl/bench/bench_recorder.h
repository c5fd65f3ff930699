#ifndef QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_RECORDER_H_
#define QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_RECORDER_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tools/qwenctl/bench/bench_options.h"
#include "tools/qwenctl/bench/latency_histogram.h"

namespace qwenserve {

// Monotonic.
absl::Time BenchNow();

// Everything that a run counts. Any thread; the per-token part takes no lock.
class BenchRecorder {
 public:
  explicit BenchRecorder(GoodputLimits limits) : limits_(limits) {}

  // One request's way, kept by its transport; one thread at a time.
  class Call {
   public:
    // `intended`: when the plan wanted it sent. All latencies count from there, so that a client or
    // server that falls behind is not forgiven the requests that it delayed.
    Call(BenchRecorder* recorder, absl::Time intended, absl::Time sent);
    // A message with `tokens` new tokens.
    void OnTokens(uint32_t tokens, absl::Time now);
    void OnPrompt(uint32_t tokens) { prompt_tokens_ = tokens; }
    // What the server counts at the end, where messages do not tell.
    void OnUsage(uint32_t prompt_tokens, uint32_t tokens);
    // Once, the last call. `error` names the failure; empty: it went well.
    void OnDone(const std::string& error, absl::Time now);

   private:
    BenchRecorder* const recorder_;
    const absl::Time intended_;
    absl::Time first_ = absl::InfinitePast();
    absl::Time last_ = absl::InfinitePast();
    uint32_t prompt_tokens_ = 0;
    uint32_t tokens_ = 0;
  };

  uint64_t started() const { return started_.load(std::memory_order_relaxed); }
  uint64_t ended() const { return ended_.load(std::memory_order_relaxed); }
  uint64_t succeeded() const { return succeeded_.load(std::memory_order_relaxed); }
  uint64_t good() const { return good_.load(std::memory_order_relaxed); }
  uint64_t prompt_tokens() const { return prompt_tokens_.load(std::memory_order_relaxed); }
  uint64_t tokens() const { return tokens_.load(std::memory_order_relaxed); }
  uint64_t messages() const { return messages_.load(std::memory_order_relaxed); }
  std::map<std::string, uint64_t> errors() const;
  const GoodputLimits& limits() const { return limits_; }

  LatencyHistogram ttft;
  LatencyHistogram inter_token;  // between two messages of a request
  LatencyHistogram end_to_end;   // of requests that went well
  LatencyHistogram send_delay;   // how late this client was itself

 private:
  const GoodputLimits limits_;
  std::atomic<uint64_t> started_{0}, ended_{0}, succeeded_{0}, good_{0};
  std::atomic<uint64_t> prompt_tokens_{0}, tokens_{0}, messages_{0};
  mutable absl::Mutex mutex_;
  std::map<std::string, uint64_t> errors_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_RECORDER_H_
