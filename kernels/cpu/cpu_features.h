#ifndef QWENSERVE_KERNELS_CPU_CPU_FEATURES_H_
#define QWENSERVE_KERNELS_CPU_CPU_FEATURES_H_

#include <string>

#include "absl/status/statusor.h"
#include "kernels/cpu/kernel_table.h"

// One implementation per architecture; the build links the one that fits.
namespace qwenserve {

// The kernels for `isa`: "auto" (the best that this machine runs), "portable" or the name of an
// instruction set. INVALID_ARGUMENT for a name that is unknown or that this machine lacks.
absl::StatusOr<const KernelTable*> ChooseKernels(const std::string& isa);

// Tells the core that the thread is spinning.
void CpuRelax();

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_CPU_FEATURES_H_
