#include <sys/auxv.h>

#include "tests/kernels/table_check.h"

namespace qwenserve {

std::vector<const KernelTable*> TablesOfThisMachine() {
  constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP of Linux's asm/hwcap.h
  std::vector<const KernelTable*> tables = {&kNeonKernels};
  if ((getauxval(AT_HWCAP) & kAsimdDp) != 0) tables.push_back(&kNeonDotKernels);
  return tables;
}

}  // namespace qwenserve
