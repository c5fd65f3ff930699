#ifndef QWENSERVE_KERNELS_CPU_ISA_BF16_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_BF16_INL_H_

// Included once per instruction set, inside an anonymous namespace (see kernel_table.h).

// Nearest even, NaN stays NaN: FloatToBf16 of dtype.h again, which may not be included there.
inline uint16_t RoundToBf16(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_BF16_INL_H_
