#include "engine/loader/group_rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/dtype.h"

namespace qwenserve {
namespace {

// Four floats side by side, on every instruction set. All sums run in four such lanes (16 chains),
// which makes their order, and so the choice of a scale, the same everywhere.
using F4 = float __attribute__((vector_size(16)));
using I4 = int32_t __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;
static_assert(kRoundingUnit == 4 * kLanes);

// Adding it leaves no bit for fractions: nearest, ties to even, for magnitudes below 2^22.
constexpr float kShift = 12582912.0f;  // 1.5 * 2^23

inline F4 Load(const float* from) {
  F4 value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

inline F4 Splat(float value) { return F4{value, value, value, value}; }

inline F4 Clamped(F4 x, float low, float high) {
  x = x < Splat(low) ? Splat(low) : x;
  return x > Splat(high) ? Splat(high) : x;
}

inline F4 Nearest(F4 x, float inverse, float low, float high) {
  return Clamped((x * Splat(inverse) + Splat(kShift)) - Splat(kShift), low, high);
}

struct Extremes {
  float low = 0;
  float high = 0;
  bool finite = true;
};

Extremes FindExtremes(const float* values, int64_t count) {
  F4 low = Splat(0), high = Splat(0), poison = Splat(0);
  for (int64_t i = 0; i < count; i += kLanes) {
    const F4 x = Load(values + i);
    low = x < low ? x : low;
    high = x > high ? x : high;
    poison += x * Splat(0);  // NaN for NaN and infinity
  }
  Extremes result;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    result.low = std::min(result.low, low[lane]);
    result.high = std::max(result.high, high[lane]);
    result.finite = result.finite && poison[lane] == 0;
  }
  return result;
}

float SquaredError(const float* values, int64_t count, float scale, float low, float high) {
  const float inverse = 1.0f / scale;
  F4 sums[4] = {Splat(0), Splat(0), Splat(0), Splat(0)};
  for (int64_t i = 0; i < count; i += kRoundingUnit) {
    for (int64_t j = 0; j < 4; ++j) {
      const F4 x = Load(values + i + j * kLanes);
      const F4 error = x - Nearest(x, inverse, low, high) * Splat(scale);
      sums[j] += error * error;
    }
  }
  const F4 sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

void WriteCodes(const float* values, int64_t count, float scale, float low, float high,
                uint8_t* codes) {
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  // The codes' middle is added while they are floats: all of it is exact.
  const F4 middle = Splat(-low);
  for (int64_t i = 0; i < count; i += kLanes) {
    const F4 code = Nearest(Load(values + i), inverse, low, high) + middle;
    const I4 integer = __builtin_convertvector(code, I4);
    for (int64_t j = 0; j < kLanes; ++j) codes[i + j] = static_cast<uint8_t>(integer[j]);
  }
}

// The scale rounded to fp16; 0 where that or the reciprocal would not be a usable number.
uint16_t RoundScale(float scale) {
  const uint16_t bits = FloatToF16(scale);
  return (bits & 0x7fffu) == 0 ? 0 : bits;
}

}  // namespace

absl::Status RoundGroup(const float* values, int64_t count, WeightFormat format, uint16_t* scale,
                        uint8_t* codes) {
  QS_CHECK(IsQuantized(format));
  const bool int8 = format == WeightFormat::kInt8;
  const float low = int8 ? -128.0f : -8.0f, high = int8 ? 127.0f : 7.0f;
  const Extremes extremes = FindExtremes(values, count);
  if (!extremes.finite) return absl::InvalidArgumentError("holds a number that is not finite");
  const float largest = -extremes.low > extremes.high ? extremes.low : extremes.high;
  const float widest = int8 ? std::fabs(largest) / 127.0f : largest / -8.0f;
  if ((FloatToF16(widest) & 0x7fffu) == 0x7c00u) {
    return absl::InvalidArgumentError(absl::StrCat("holds ", largest, ", too large for an ",
                                                   WeightFormatName(format),
                                                   " scale of fp16 (at most 65504)"));
  }
  *scale = RoundScale(widest);
  if (!int8 && *scale != 0) {
    float least = SquaredError(values, count, F16ToFloat(*scale), low, high);
    for (const float target : {-8.75f, -9.5f, -10.25f}) {
      const uint16_t candidate = RoundScale(largest / target);
      if (candidate == 0) continue;
      const float error = SquaredError(values, count, F16ToFloat(candidate), low, high);
      if (error >= least) continue;
      least = error;
      *scale = candidate;
    }
  }
  WriteCodes(values, count, F16ToFloat(*scale), low, high, codes);
  return absl::OkStatus();
}

}  // namespace qwenserve
