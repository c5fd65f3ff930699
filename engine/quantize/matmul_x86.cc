#include "engine/quantize/matmul_kernel.h"

namespace qwenserve {

const MatmulKernel& BestMatmulKernel() {
  if (__builtin_cpu_supports("avx512f")) return kAvx512Matmul;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2Matmul;
  return kPortableMatmul;
}

}  // namespace qwenserve
