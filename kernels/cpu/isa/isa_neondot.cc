// The kernels for 64 bit Arm with the dot product instructions. Compiled with its own flags:
// includes nothing that holds an inline function with a name of its own (see kernel_table.h).
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {
namespace {

template <int lane>
inline int32x4_t Dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
  return vdotq_laneq_s32(sum, w, x, lane);
}

#include "kernels/cpu/isa/neon_inl.h"

}  // namespace

constinit const KernelTable kNeonDotKernels = NeonTable("neondot");

}  // namespace qwenserve
