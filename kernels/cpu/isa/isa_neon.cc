// The kernels for any 64 bit Arm. Includes nothing that holds an inline function with a name of its
// own (see kernel_table.h).
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace qwenserve {
namespace {

template <int lane>
inline int32x4_t Dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
  const int8x16_t codes = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane));
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(codes));
  const int16x8_t high = vmull_high_s8(w, codes);
  return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
}

#include "kernels/cpu/isa/neon_inl.h"

}  // namespace

constinit const KernelTable kNeonKernels = NeonTable("neon");

}  // namespace qwenserve
