#ifndef QWENSERVE_KERNELS_CUDA_GEMM_FRAGMENTS_CUH_
#define QWENSERVE_KERNELS_CUDA_GEMM_FRAGMENTS_CUH_

// From a lane's 16 bytes of a unit to operands of the tensor cores. Quantised weights become the
// whole numbers code - zero, which bf16 holds exactly.
#include "kernels/cuda/gemm/fragment_layout.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

// fp16 has more bits than bf16: its fragments are two, whose sum it is exactly.
constexpr int FragmentTerms(FragmentFormat format) {
  return format == FragmentFormat::kF16 ? 2 : 1;
}

QS_DEVICE uint32_t WordAt(const Word4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// What is subtracted from the codes of outputs g and g + 8 of a lane, in the form that the format
// wants: int4 -(128 + zero) as two bf16, int8 2^23 + zero as a float.
struct ZeroTerms {
  uint32_t of[2] = {0, 0};
};

QS_DEVICE uint32_t ZeroTerm(FragmentFormat format, int zero) {
  if (format == FragmentFormat::kInt8) return 0x4b000000u + static_cast<uint32_t>(zero);
  // 128 .. 384: a multiple of two above 256 needs more bits than bf16 has, but codes of 4 bits have
  // zero points up to 16.
  const float term = -static_cast<float>(128 + zero);
  return PackBf16(term, term);
}

QS_DEVICE ZeroTerms DefaultZeros(FragmentFormat format) {
  ZeroTerms zeros;
  zeros.of[0] = zeros.of[1] = ZeroTerm(format, format == FragmentFormat::kInt8 ? 128 : 8);
  return zeros;
}

// 128 + q in bf16 is 0x4300 | q, so the difference is exact.
QS_DEVICE void Int4Fragment(uint32_t word, const ZeroTerms& zeros, uint32_t a[4]) {
  QS_UNROLL
  for (int r = 0; r < 4; ++r) {
    const uint32_t magic = AndOr<0x000f000fu, 0x43004300u>(word >> (4 * r));
    a[r] = FmaBf16x2(magic, 0x3f803f80u, zeros.of[r % 2]);
  }
}

// 2^23 + q as a float is 0x4b000000 | q.
QS_DEVICE void Int8Fragment(uint32_t low, uint32_t high, const ZeroTerms& zeros, uint32_t a[4]) {
  QS_UNROLL
  for (int r = 0; r < 4; ++r) {
    const uint32_t word = r < 2 ? low : high;
    const uint32_t selector = 0x7440u + static_cast<uint32_t>(r % 2 * 2);
    const float zero = BitsToFloat(zeros.of[r % 2]);
    const float first = BitsToFloat(PermuteBytes(word, 0x4b000000u, selector)) - zero;
    const float second = BitsToFloat(PermuteBytes(word, 0x4b000000u, selector + 1)) - zero;
    a[r] = PackBf16(first, second);
  }
}

QS_DEVICE void F16Fragment(const Word4& lane, uint32_t high[4], uint32_t low[4]) {
  QS_UNROLL
  for (int r = 0; r < 4; ++r) {
    const uint32_t pair = WordAt(lane, r);
    const float first = HalfToFloat(static_cast<uint16_t>(pair & 0xffffu));
    const float second = HalfToFloat(static_cast<uint16_t>(pair >> 16));
    high[r] = PackBf16(first, second);
    low[r] =
        PackBf16(first - BitsToFloat(high[r] << 16), second - BitsToFloat(high[r] & 0xffff0000u));
  }
}

// The operand of step `step` of a unit: the sum of the terms.
template <FragmentFormat kFormat>
QS_DEVICE void Fragment(const Word4& lane, int step, const ZeroTerms& zeros,
                        uint32_t a[FragmentTerms(kFormat)][4]) {
  if constexpr (kFormat == FragmentFormat::kBf16) {
    QS_UNROLL
    for (int r = 0; r < 4; ++r) a[0][r] = WordAt(lane, r);
  } else if constexpr (kFormat == FragmentFormat::kF16) {
    F16Fragment(lane, a[0], a[1]);
  } else if constexpr (kFormat == FragmentFormat::kInt8) {
    Int8Fragment(WordAt(lane, 2 * step), WordAt(lane, 2 * step + 1), zeros, a[0]);
  } else {
    Int4Fragment(WordAt(lane, step), zeros, a[0]);
  }
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GEMM_FRAGMENTS_CUH_
