#ifndef QWENSERVE_KERNELS_CPU_SAMPLING_H_
#define QWENSERVE_KERNELS_CPU_SAMPLING_H_

#include <cstdint>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/sample_row.h"

namespace qwenserve {

// Working memory of one thread, kept between calls.
struct SampleScratch {
  std::vector<int32_t> counts;  // [vocabulary], zero between calls
  std::vector<float> terms;     // [vocabulary]
};

// Draws one id as kernels/README.md says, in time linear in the vocabulary plus the sorting of the
// few candidates around a cut. Overwrites logits[0..vocab_size).
int32_t SampleOne(const KernelTable& kernels, const SampleRow& row, int64_t vocab_size,
                  float* logits, SampleScratch& scratch);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_SAMPLING_H_
