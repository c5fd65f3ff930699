// For any machine: four floats at a time.
#include <cstdint>

#include "engine/quantize/matmul_kernel.h"

namespace qwenserve {
namespace {

constexpr int kVectorBytes = 16;
#include "engine/quantize/matmul_kernel_inl.h"

}  // namespace

constinit const MatmulKernel kPortableMatmul = {4, 2 * kVectorFloats, MultiplyTile<4, 2>};

}  // namespace qwenserve
