// Peaks of AVX-512's arithmetic: twelve chains in registers, more than latency times width of the
// machines at hand. Compiled with flags of its own; called on machines that have the instructions.
#include <immintrin.h>

#include <cstdint>

namespace qwenserve {
namespace {

template <typename Vector, typename Step>
Vector RunChains(int64_t rounds, Vector start, Step step) {
  Vector sums[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sums[i] = start;
  for (int64_t n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      sums[i] = step(sums[i]);
      // Equal chains would become one.
      asm volatile("" : "+v"(sums[i]));
    }
  }
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) sums[0] += sums[i];
  return sums[0];
}

}  // namespace

float FusedMultiplyAdd512Rounds(int64_t rounds) {
  const __m512 half = _mm512_set1_ps(0.5f);
  return RunChains(rounds, half, [=](__m512 sum) { return _mm512_fmadd_ps(sum, half, half); })[0];
}

float Int8Dot512Rounds(int64_t rounds) {
  const __m512i ones = _mm512_set1_epi8(1);
  const __m512i sum = RunChains(
      rounds, ones, [=](__m512i chain) { return _mm512_dpbusd_epi32(chain, ones, ones); });
  return static_cast<float>(_mm512_cvtsi512_si32(sum));
}

float Bf16Dot512Rounds(int64_t rounds) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  return RunChains(rounds, _mm512_setzero_ps(),
                   [=](__m512 sum) { return _mm512_dpbf16_ps(sum, ones, ones); })[0];
}

}  // namespace qwenserve
