#ifndef QWENSERVE_TOOLS_BENCH_MACHINE_LIMITS_H_
#define QWENSERVE_TOOLS_BENCH_MACHINE_LIMITS_H_

#include <string>
#include <vector>

namespace qwenserve {

// What the machine can do at best with some threads. Measured right beside the kernels: machines
// are shared and noisy, only ratios taken within one run mean anything.
struct MachineLimits {
  double read_bytes_per_second = 0;  // streaming read of memory beyond the caches
  double flops_per_second = 0;       // float fused multiply-adds, two operations each
  // Dots of 4 bytes and of 2 bf16 (AVX-512 VNNI and BF16), two operations per product; 0 where the
  // instruction set has no such instruction.
  double int8_ops_per_second = 0;
  double bf16_flops_per_second = 0;
};

// The best of a few short passes with the vectors of `isa` (a name of ChooseKernels that this
// machine runs); takes about 0.2 s. The peaks are 0 for the portable kernels and those of Arm, and
// leave out the tiles of AMX.
MachineLimits MeasureMachineLimits(int num_threads, const std::string& isa = "auto");

// Streaming read alone: bytes per second of each pass over 512 MiB in 2 MiB pages, each thread its
// own part.
std::vector<double> StreamingReadPasses(int num_threads);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_MACHINE_LIMITS_H_
