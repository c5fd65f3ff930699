#ifndef QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_REPORT_H_
#define QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_REPORT_H_

#include <string>

#include "absl/time/time.h"
#include "tools/qwenctl/bench/bench_options.h"
#include "tools/qwenctl/bench/bench_recorder.h"

namespace qwenserve {

// CPU time of this process so far.
absl::Duration OwnCpuTime();

// What a run has measured, as a table for people or as JSON with the same numbers.
class BenchReport {
 public:
  BenchReport(const BenchOptions& options, const BenchRecorder& recorder, absl::Duration elapsed,
              absl::Duration cpu)
      : options_(options), recorder_(recorder), elapsed_(elapsed), cpu_(cpu) {}

  std::string Table() const;
  std::string ToJson() const;
  // Requests within the limits among all that were sent; 1 for none.
  double GoodShare() const;
  bool limits_kept() const;
  // Why the figures say more about this client than about the server; empty when they do not.
  std::string Doubt() const;

 private:
  double PerSecond(uint64_t count) const;

  const BenchOptions& options_;
  const BenchRecorder& recorder_;
  const absl::Duration elapsed_;
  const absl::Duration cpu_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BENCH_BENCH_REPORT_H_
