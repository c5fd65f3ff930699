#ifndef QWENSERVE_KERNELS_CPU_ISA_ELEMENTWISE_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_ELEMENTWISE_INL_H_

// Elementwise ops and fixed-order sums on vectors of 8 floats, in the compiler's portable vector
// types: without AVX they become pairs of smaller vectors and give the same bits, since
// -ffp-contract=off keeps every operation as written.
// Included once per instruction set, inside an anonymous namespace (see kernel_table.h).

typedef float V8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));

inline V8 Set8(float value) { return V8{} + value; }

inline V8 Load8(const float* p) {
  V8 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline void Store8(float* p, V8 v) { __builtin_memcpy(p, &v, sizeof v); }

// The first `count` floats, zeros behind.
inline V8 LoadTail(const float* p, int64_t count) {
  V8 v = {};
  __builtin_memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
  return v;
}

inline void StoreTail(float* p, V8 v, int64_t count) {
  __builtin_memcpy(p, &v, static_cast<size_t>(count) * sizeof(float));
}

// Calls op(V8...) on `count` elements of the inputs and stores what it returns.
template <typename Op, typename... In>
inline void Map(int64_t count, float* out, Op op, const In*... in) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) Store8(out + i, op(Load8(in + i)...));
  if (i < count) StoreTail(out + i, op(LoadTail(in + i, count - i)...), count - i);
}

// The tree of every sum over 8 lanes: ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)).
inline float SumLanes(V8 v) {
  v = v + __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v = v + __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  return v[0] + v[1];
}

inline V8 Max8(V8 a, V8 b) { return a > b ? a : b; }

inline float MaxLanes(V8 v) {
  v = Max8(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = Max8(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  return v[0] > v[1] ? v[0] : v[1];
}

// Relative error below 2e-7. 0 below -87.33; constant above 88.37, where float would soon end;
// exp(0) = 1 exactly; NaN stays NaN. 2^n * exp(r), |r| <= ln(2)/2, with exp(r) = 1 + r + r^2 q(r);
// q interpolates at Chebyshev nodes. ln(2) is 355/512 (times n exact) plus a small rest.
inline V8 Exp8(V8 x) {
  const V8 low = Set8(-87.33f), high = Set8(88.37f);
  V8 t = x > high ? high : x;
  t = t < low ? low : t;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const V8 magic = Set8(12582912.0f);
  const V8 shifted = t * 1.44269504f + magic;
  const I8 exponent = (I8)shifted - (I8)magic;
  const V8 n = shifted - magic;
  const V8 r = (t - n * 0.693359375f) - n * -0.00021219444f;
  V8 q = Set8(0.00019891001f);
  q = q * r + 0.0013933659f;
  q = q * r + 0.0083333105f;
  q = q * r + 0.041666463f;
  q = q * r + 0.16666667f;
  q = q * r + 0.5f;
  const V8 mantissa = (q * (r * r) + r) + 1.0f;
  const V8 result = mantissa * (V8)((exponent + 127) << 23);
  return x < low ? V8{} : result;
}

void SiluMul(const float* gate, const float* up, int64_t count, float* out) {
  Map(
      count, out, [](V8 g, V8 u) { return (g / (Exp8(-g) + 1.0f)) * u; }, gate, up);
}

// Element i goes to lane i mod 8, each lane sums in ascending order, then SumLanes.
inline float InverseRms(const float* x, int64_t width, float epsilon) {
  V8 sum = {};
  int64_t i = 0;
  for (; i + 8 <= width; i += 8) sum += Load8(x + i) * Load8(x + i);
  if (i < width) {
    const V8 v = LoadTail(x + i, width - i);
    sum += v * v;
  }
  return 1.0f / __builtin_sqrtf(SumLanes(sum) / static_cast<float>(width) + epsilon);
}

void RmsNorm(const float* x, int64_t width, float* residual, const float* weight, float epsilon,
             float* out) {
  const float* input = x;
  if (residual != nullptr) {
    Map(
        width, residual, [](V8 a, V8 b) { return a + b; }, residual, x);
    input = residual;
  }
  const float inverse = InverseRms(input, width, epsilon);
  Map(
      width, out, [inverse](V8 v, V8 w) { return v * inverse * w; }, input, weight);
}

void NormRope(const NormRopeArgs& args) {
  float* x = args.head;
  if (args.weight != nullptr) {
    RmsNorm(x, args.head_dim, nullptr, args.weight, args.epsilon, x);
  }
  const int64_t half = args.head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float cos = args.cos_sin[2 * i], sin = args.cos_sin[2 * i + 1];
    const float a = x[i], b = x[i + half];
    x[i] = (a * cos - b * sin) * args.scale;
    x[i + half] = (b * cos + a * sin) * args.scale;
  }
}

// Where column c of a group of 16 is stored (kernel_table.h).
template <typename Format>
inline int64_t PanelSlot(int64_t column) {
  return Format::kInterleaved ? (column < 8 ? 2 * column : 2 * column - 15) : column;
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_ELEMENTWISE_INL_H_
