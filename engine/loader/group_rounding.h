#ifndef QWENSERVE_ENGINE_LOADER_GROUP_ROUNDING_H_
#define QWENSERVE_ENGINE_LOADER_GROUP_ROUNDING_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// Raised with every change to the codes or scales that the same weights give: part of the numerics
// fingerprint.
inline constexpr int kGroupRoundingVersion = 1;

// Inputs that share a scale when a float checkpoint is rounded while loading.
inline constexpr int64_t kRoundedGroup = 128;

// RoundGroup reads and writes up to the next multiple of this many elements.
inline constexpr int64_t kRoundingUnit = 16;

// Rounds the weights of one group to kInt8 or kInt4, zero point 128 or 8. `values` beyond `count`
// up to kRoundingUnit must be 0; `codes` has room for as many.
//
// The scale is an fp16 number, and codes are chosen for it as it is, not for what it was before
// rounding: int8 = largest magnitude / 127. int4 tries to put the weight of the largest magnitude
// (of two, the positive one) at -8, -8.75, -9.5 and -10.25 (so the scale may be negative, and the
// largest weights are cut to -8) and takes what gives the least squared error: 17 % less error on
// Gaussian weights than largest magnitude / 7. The same bits on every machine.
//
// INVALID_ARGUMENT for a weight that is not finite, or too large for the scale to be one.
absl::Status RoundGroup(const float* values, int64_t count, WeightFormat format, uint16_t* scale,
                        uint8_t* codes);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_GROUP_ROUNDING_H_
