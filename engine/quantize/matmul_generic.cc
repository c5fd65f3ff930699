#include "engine/quantize/matmul_kernel.h"

namespace qwenserve {

const MatmulKernel& BestMatmulKernel() { return kPortableMatmul; }

}  // namespace qwenserve
