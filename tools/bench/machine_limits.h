#ifndef QWENSERVE_TOOLS_BENCH_MACHINE_LIMITS_H_
#define QWENSERVE_TOOLS_BENCH_MACHINE_LIMITS_H_

#include <vector>

namespace qwenserve {

// What the machine can do at best with some threads. Measured right beside the kernels: machines
// are shared and noisy, only ratios taken within one run mean anything.
struct MachineLimits {
  double read_bytes_per_second = 0;  // streaming read of memory beyond the caches
  double flops_per_second = 0;       // float fused multiply-adds of 8 lanes, two operations each
};

// The best of a few short passes; takes about 0.2 s. flops_per_second is 0 where only the
// portable kernels run.
MachineLimits MeasureMachineLimits(int num_threads);

// Streaming read alone: bytes per second of each pass over 512 MiB in 2 MiB pages, each thread its
// own part.
std::vector<double> StreamingReadPasses(int num_threads);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_MACHINE_LIMITS_H_
