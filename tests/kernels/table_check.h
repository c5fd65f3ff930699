#ifndef QWENSERVE_TESTS_KERNELS_TABLE_CHECK_H_
#define QWENSERVE_TESTS_KERNELS_TABLE_CHECK_H_

#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {

// The tables that this machine can run, but for the portable one. One implementation per
// architecture.
std::vector<const KernelTable*> TablesOfThisMachine();

// The AMX kernels over tile instructions in plain C++.
const KernelTable* AmxStandIn();

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_TABLE_CHECK_H_
