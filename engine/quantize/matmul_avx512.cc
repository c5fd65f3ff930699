// For x86-64 with AVX-512F: 24 of 32 registers hold sums. Compiled with its own flags.
#include <cstdint>

#include "engine/quantize/matmul_kernel.h"

namespace qwenserve {
namespace {

constexpr int kVectorBytes = 64;
#include "engine/quantize/matmul_kernel_inl.h"

}  // namespace

constinit const MatmulKernel kAvx512Matmul = {12, 2 * kVectorFloats, MultiplyTile<12, 2>};

}  // namespace qwenserve
