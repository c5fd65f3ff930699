#include "engine/quantize/quantized_matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/dtype.h"

namespace qwenserve {
namespace {

constexpr int kScaleCandidates = 12;
constexpr float kScaleStep = 0.03f;

GroupScale MakeScale(float scale) {
  GroupScale result;
  result.bits = std::max<uint16_t>(FloatToF16(scale), 1);  // 1 is the smallest positive fp16
  result.scale = F16ToFloat(result.bits);
  result.inverse = 1.0f / result.scale;
  return result;
}

}  // namespace

uint16_t FloatToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves the multiples of 2^-24 in the low bits, rounded to even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3f000000u);
  }
  const uint32_t rebiased = magnitude - (112u << 23);
  return sign | static_cast<uint16_t>((rebiased + 0xfffu + (rebiased >> 13 & 1u)) >> 13);
}

void Dequantize(const QuantizedMatrix& matrix, float* out) {
  std::vector<float> scales(static_cast<size_t>(matrix.groups));
  const int zero = matrix.zero();
  for (int64_t o = 0; o < matrix.out_features; ++o) {
    for (int64_t g = 0; g < matrix.groups; ++g) {
      scales[g] = F16ToFloat(matrix.scales[o * matrix.groups + g]);
    }
    const uint8_t* codes = matrix.codes.data() + o * matrix.in_features;
    float* row = out + o * matrix.in_features;
    for (int64_t i = 0; i < matrix.in_features; ++i) {
      row[i] = scales[matrix.group_of[i]] * static_cast<float>(codes[i] - zero);
    }
  }
}

int GroupScale::Code(float weight, int zero) const {
  // Adding 1.5 * 2^23 leaves no bit for fractions: rounds to nearest even, without a call.
  constexpr float kRound = 12582912.0f;
  const float range = static_cast<float>(zero);
  const float code = std::min(std::max(weight * inverse, -range), range - 1.0f);
  return static_cast<int>((code + kRound) - kRound) + zero;
}

GroupScale ChooseScale(const float* weights, const float* importance, int64_t count, int bits) {
  const int zero = 1 << (bits - 1);
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(weights[i]));
  if (largest == 0) return MakeScale(1.0f);
  const float widest = largest / static_cast<float>(zero - 1);
  GroupScale best = MakeScale(widest);
  double least = std::numeric_limits<double>::infinity();
  for (int candidate = 0; candidate < kScaleCandidates; ++candidate) {
    const GroupScale scale =
        MakeScale(widest * (1.0f - kScaleStep * static_cast<float>(candidate)));
    double error = 0;
    for (int64_t i = 0; i < count; ++i) {
      const float rest = weights[i] - scale.Value(scale.Code(weights[i], zero), zero);
      error += double{rest} * rest * (importance == nullptr ? 1.0f : importance[i]);
    }
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

}  // namespace qwenserve
