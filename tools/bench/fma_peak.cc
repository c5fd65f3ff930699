// Compiled with the flags of the widest kernels and free to fuse, so that the plain loop below is
// nothing but fused multiply-adds.
#include <cstdint>

namespace qwenserve {

// Returns what keeps the loop alive; does 12 * 8 fused multiply-adds per round.
float FusedMultiplyAddRounds(int64_t rounds, float factor) {
  typedef float V8 __attribute__((vector_size(32)));
  // Twelve chains, more than latency times width of the machines at hand. By name, since an array
  // may end up in memory; each with its own start, since equal chains would become one.
  const V8 x = V8{} + factor;
  V8 a = x, b = a + x, c = b + x, d = c + x, e = d + x, f = e + x;
  V8 g = f + x, h = g + x, i = h + x, j = i + x, k = j + x, l = k + x;
  for (int64_t n = 0; n < rounds; ++n) {
    a = a * x + x, b = b * x + x, c = c * x + x, d = d * x + x, e = e * x + x, f = f * x + x;
    g = g * x + x, h = h * x + x, i = i * x + x, j = j * x + x, k = k * x + x, l = l * x + x;
  }
  const V8 sum = a + b + c + d + e + f + g + h + i + j + k + l;
  return sum[0];
}

}  // namespace qwenserve
