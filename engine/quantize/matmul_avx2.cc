// For x86-64 with AVX2 and FMA: 12 of 16 registers hold sums. Compiled with its own flags.
#include <cstdint>

#include "engine/quantize/matmul_kernel.h"

namespace qwenserve {
namespace {

constexpr int kVectorBytes = 32;
#include "engine/quantize/matmul_kernel_inl.h"

}  // namespace

constinit const MatmulKernel kAvx2Matmul = {6, 2 * kVectorFloats, MultiplyTile<6, 2>};

}  // namespace qwenserve
