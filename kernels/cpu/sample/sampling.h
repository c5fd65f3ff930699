#ifndef QWENSERVE_KERNELS_CPU_SAMPLE_SAMPLING_H_
#define QWENSERVE_KERNELS_CPU_SAMPLE_SAMPLING_H_

#include <cstdint>
#include <vector>

#include "kernels/cpu/sample/row_scan.h"
#include "kernels/sample_row.h"

namespace qwenserve {

// What comes of one row, as kernels/README.md says. Overwrites logits[0..vocab_size).
SampledToken SampleOne(const KernelTable& kernels, RunChunks run, const SampleRow& row,
                       int64_t vocab_size, float* logits, SampleScratch* scratch);

// The token of a row with `top_k`, or with a top_p that a prefix of the vocabulary reaches: drawn
// from `top`, the first ids in the order of Before. `total`: mass of all that top_p counts; below
// 0: of `top`. -1 when `top` does not reach top_p.
int32_t DrawFromTop(const KernelTable& kernels, const SampleRow& row,
                    absl::Span<const Candidate> top, int64_t total);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_SAMPLE_SAMPLING_H_
