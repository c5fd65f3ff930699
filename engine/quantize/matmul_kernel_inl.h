#ifndef QWENSERVE_ENGINE_QUANTIZE_MATMUL_KERNEL_INL_H_
#define QWENSERVE_ENGINE_QUANTIZE_MATMUL_KERNEL_INL_H_

// The tile of MatmulKernel in the compiler's own vectors. Included once per instruction set, inside
// an anonymous namespace, after kVectorBytes was set.

typedef float Vector __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
constexpr int kVectorFloats = kVectorBytes / 4;

template <int rows, int vectors>
void MultiplyTile(int64_t depth, const float* a, const float* b, float factor, float* c,
                  int64_t ldc) {
  Vector sum[rows][vectors] = {};
  for (int64_t d = 0; d < depth; ++d) {
    Vector right[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      right[v] = *reinterpret_cast<const Vector*>(b + kVectorFloats * v);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[r][v] += a[r] * right[v];
    }
    a += rows;
    b += kVectorFloats * vectors;
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      Vector* out = reinterpret_cast<Vector*>(c + r * ldc + kVectorFloats * v);
      *out += factor * sum[r][v];
    }
  }
}

#endif  // QWENSERVE_ENGINE_QUANTIZE_MATMUL_KERNEL_INL_H_
