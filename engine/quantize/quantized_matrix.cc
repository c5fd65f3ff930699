#include "engine/quantize/quantized_matrix.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dtype.h"

namespace qwenserve {
namespace {

constexpr int kScaleCandidates = 12;
constexpr float kScaleStep = 0.03f;

GroupScale MakeScale(float scale) {
  GroupScale result;
  result.bits = FloatToF16(scale);
  if ((result.bits & 0x7fffu) == 0) result.bits |= 1;  // the smallest fp16 that is not zero
  result.scale = F16ToFloat(result.bits);
  result.inverse = 1.0f / result.scale;
  return result;
}

}  // namespace

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
  float lowest = 0, highest = 0;
  for (int64_t i = 0; i < count; ++i) {
    lowest = std::min(lowest, weights[i]);
    highest = std::max(highest, weights[i]);
  }
  const float largest = -lowest > highest ? lowest : highest;
  if (largest == 0) return MakeScale(1.0f);
  const float widest = largest / -static_cast<float>(zero);
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
