#ifndef QWENSERVE_ENGINE_QUANTIZE_QUANTIZED_MATRIX_H_
#define QWENSERVE_ENGINE_QUANTIZE_QUANTIZED_MATRIX_H_

#include <cstdint>
#include <vector>

namespace qwenserve {

// A matrix [out_features, in_features] in `bits` per weight, symmetric: weight (o, i) is
// scale(o, group_of[i]) * (code(o, i) - 2^(bits - 1)).
struct QuantizedMatrix {
  int bits = 4;
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t groups = 0;
  std::vector<uint8_t> codes;     // [out_features, in_features], 0 .. 2^bits - 1
  std::vector<uint16_t> scales;   // [out_features, groups] fp16
  std::vector<int32_t> group_of;  // [in_features]

  int zero() const { return 1 << (bits - 1); }
};

// out: [out_features, in_features]. Exact in float: a scale has 11 significant bits.
void Dequantize(const QuantizedMatrix& matrix, float* out);

// How one row's group is rounded: the fp16 scale and its reciprocal.
struct GroupScale {
  uint16_t bits = 0;
  float scale = 0;
  float inverse = 0;

  // The code of a weight, and what it stands for.
  int Code(float weight, int zero) const;
  float Value(int code, int zero) const { return scale * static_cast<float>(code - zero); }
};

// The scale with the least sum of importance[i] * (rounding error of weights[i])^2 among a dozen:
// from "the largest weight is -2^(bits - 1) times it" (there is one more code on that side, so the
// scale of a group whose largest weight is positive is negative) down to two thirds of that.
// importance may be null (all equal). Never zero; infinite when a weight is too large for fp16.
GroupScale ChooseScale(const float* weights, const float* importance, int64_t count, int bits);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_QUANTIZE_QUANTIZED_MATRIX_H_
