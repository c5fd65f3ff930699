#ifndef QWENSERVE_KERNELS_DTYPE_H_
#define QWENSERVE_KERNELS_DTYPE_H_

#include <bit>
#include <cstddef>
#include <cstdint>

namespace qwenserve {

// Element types of tensors in memory. bf16 and fp16 are stored as their 16 bits.
enum class DType : uint8_t { kF32, kBf16, kF16 };

constexpr size_t DTypeBytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

const char* DTypeName(DType dtype);

// A bf16 is the upper half of a float's bits, so widening is exact.
inline float Bf16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Rounds to nearest, ties to even. NaN stays NaN.
inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE 754 binary16, exact, subnormals included.
float F16ToFloat(uint16_t bits);

// Rounds to nearest, ties to even; beyond 65504 to infinity. NaN stays NaN.
uint16_t FloatToF16(float value);

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_DTYPE_H_
