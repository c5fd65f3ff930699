#include "tests/kernels/table_check.h"

namespace qwenserve {

std::vector<const KernelTable*> TablesOfThisMachine() {
  std::vector<const KernelTable*> tables = {AmxStandIn()};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    tables.push_back(&kAvx2Kernels);
  }
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    tables.push_back(&kAvx512Kernels);
  }
  return tables;
}

}  // namespace qwenserve
