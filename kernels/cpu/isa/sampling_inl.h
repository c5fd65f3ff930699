#ifndef QWENSERVE_KERNELS_CPU_ISA_SAMPLING_INL_H_
#define QWENSERVE_KERNELS_CPU_ISA_SAMPLING_INL_H_

// The passes over a whole vocabulary that sampling needs. Stands on elementwise_inl.h and is
// included after it, once per instruction set, inside an anonymous namespace (see kernel_table.h).

typedef float V4 __attribute__((vector_size(16)));
typedef double D4 __attribute__((vector_size(32)));
typedef uint64_t U4 __attribute__((vector_size(32)));
typedef int64_t L4 __attribute__((vector_size(32)));

inline D4 LoadDoubles(const float* p) {
  V4 v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, D4);
}

bool BlockMaxima(const float* x, int64_t count, float* maxima) {
  const V8 infinity = Set8(__builtin_inff());
  I8 sound = (I8){} - 1;
  for (int64_t i = 0; i < count; i += kSampleBlock) {
    V8 max = -infinity;
    const int64_t end = i + kSampleBlock < count ? i + kSampleBlock : count;
    int64_t j = i;
    for (; j + 8 <= end; j += 8) {
      const V8 v = Load8(x + j);
      sound &= v < infinity;
      max = Max8(max, v);
    }
    for (; j < end; ++j) {
      const V8 v = Set8(x[j]);
      sound &= v < infinity;
      max = Max8(max, v);
    }
    maxima[i / kSampleBlock] = MaxLanes(max);
  }
  for (int i = 0; i < 8; ++i) {
    if (sound[i] == 0) return false;
  }
  return true;
}

int64_t Weigh(const float* x, int64_t count, float max, float inverse_temperature, float* p) {
  Map(
      count, p, [=](V8 v) { return Exp8((v - max) * inverse_temperature); }, x);
  // In [1024, 2048) a double's last bit is 2^-42, so this rounds to multiples of that. A lane adds
  // at most 512 of them, which is exact.
  const auto round = [](auto v) { return (v + 1536.0) - 1536.0; };
  constexpr int64_t kPiece = 4096;
  int64_t mass = 0;
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t end = begin + kPiece < count ? begin + kPiece : count;
    D4 low = {}, high = {};
    int64_t i = begin;
    for (; i + 8 <= end; i += 8) {
      low += round(LoadDoubles(p + i));
      high += round(LoadDoubles(p + i + 4));
    }
    for (; i < end; ++i) low[0] += round(static_cast<double>(p[i]));
    low += high;
    for (int lane = 0; lane < 4; ++lane) mass += static_cast<int64_t>(low[lane] * 0x1p42);
  }
  return mass;
}

inline U4 Mix4(U4 x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

int64_t RaceNext(const float* p, int64_t count, uint64_t key, int64_t first_id, double bound) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  const U4 lanes = {1, 2, 3, 4};
  U4 counter = (lanes + static_cast<uint64_t>(first_id)) * kGolden + key;
  for (int64_t i = 0; i + kSampleBlock <= count; i += kSampleBlock) {
    L4 wins = {};
    for (int64_t j = i; j < i + kSampleBlock; j += 4) {
      // bits as a double, less 1, is floor(h / 2^12) / 2^52.
      const U4 bits = (Mix4(counter) >> 12) | 0x3ff0000000000000u;
      const D4 v = ((D4)bits - 1.0) + 0x1p-53;
      wins |= LoadDoubles(p + j) > v * bound;
      counter += 4 * kGolden;
    }
    if ((wins[0] | wins[1] | wins[2] | wins[3]) != 0) return i;
  }
  // The rest is shorter than a block.
  return count / kSampleBlock * kSampleBlock;
}

#endif  // QWENSERVE_KERNELS_CPU_ISA_SAMPLING_INL_H_
