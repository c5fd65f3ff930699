#ifndef QWENSERVE_KERNELS_CUDA_SAMPLE_SAMPLE_MATH_H_
#define QWENSERVE_KERNELS_CUDA_SAMPLE_SAMPLE_MATH_H_

// The numbers behind sampling on a GPU: operation by operation those of kernels/cpu/sample and of
// Exp8 (kernels/cpu/isa/elementwise_inl.h).
#include "kernels/cuda/sample/sample_jobs.h"
#include "kernels/cuda/simt/device.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {  // for one .cu file

// A finite logit and its id as a number: the order of a vocabulary, highest first. -0 is 0.
inline constexpr uint64_t kNoRank = 0;  // below every rank
inline constexpr uint64_t kUnsoundRank = ~uint64_t{0};
QS_DEVICE uint64_t RankOf(float logit, int32_t id) {
  uint32_t bits = FloatBits(logit);
  if (bits == 0x80000000u) bits = 0;
  bits ^= (bits >> 31) != 0 ? ~0u : 0x80000000u;
  return uint64_t{bits} << 32 | ~static_cast<uint32_t>(id);
}
QS_DEVICE int32_t IdOf(uint64_t rank) { return static_cast<int32_t>(~static_cast<uint32_t>(rank)); }
QS_DEVICE float LogitOf(uint64_t rank) {
  const auto bits = static_cast<uint32_t>(rank >> 32);
  return BitsToFloat(bits ^ ((bits >> 31) != 0 ? 0x80000000u : ~0u));
}
QS_DEVICE bool IsUsable(uint64_t best) { return best != kNoRank && best != kUnsoundRank; }
QS_DEVICE bool IsNanOrPlusInfinity(float x) { return !(x < BitsToFloat(0x7f800000u)); }
QS_DEVICE bool IsMinusInfinity(float x) { return FloatBits(x) == 0xff800000u; }

QS_DEVICE float ExpOf(float x) {
  constexpr float kLow = -87.33f, kHigh = 88.37f, kMagic = 12582912.0f;
  float t = x > kHigh ? kHigh : x;
  t = t < kLow ? kLow : t;
  const float shifted = t * 1.44269504f + kMagic;
  const uint32_t exponent = FloatBits(shifted) - FloatBits(kMagic);
  const float n = shifted - kMagic;
  const float r = (t - n * 0.693359375f) - n * -0.00021219444f;
  float q = 0.00019891001f;
  q = q * r + 0.0013933659f;
  q = q * r + 0.0083333105f;
  q = q * r + 0.041666463f;
  q = q * r + 0.16666667f;
  q = q * r + 0.5f;
  const float mantissa = (q * (r * r) + r) + 1.0f;
  return x < kLow ? 0.0f : mantissa * BitsToFloat((exponent + 127u) << 23);
}

// p of a logit, 1 for the highest.
QS_DEVICE float WeightOf(float logit, float max, float inverse_temperature) {
  return ExpOf((logit - max) * inverse_temperature);
}

// In units of 2^-42, ties to even: scaling is exact, and so is what has no fraction.
QS_DEVICE int64_t MassOf(float p) { return static_cast<int64_t>(RoundToEven(p * 0x1p42f)); }

// Which step below the highest logit: never falls as the logit falls.
QS_DEVICE int StepOf(float logit, float max, float inverse_temperature) {
  const float step = (max - logit) * (inverse_temperature * (kSampleSteps / 87.5f));
  return step < kSampleSteps - 1 ? static_cast<int>(step) : kSampleSteps - 1;
}

QS_DEVICE uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
QS_DEVICE double UniformOf(uint64_t key, int32_t id) {
  const uint64_t bits = Mix(key + (static_cast<uint64_t>(id) + 1) * 0x9e3779b97f4a7c15u);
  return static_cast<double>(2 * (bits >> 12) + 1) * 0x1p-53;
}

// Of a normal x > 0.
QS_DEVICE double LogOf(double x) {
  const uint64_t bits = DoubleBits(x);
  int exponent = static_cast<int>(bits >> 52) - 1022;
  double m = BitsToDouble((bits & 0x000fffffffffffffu) | 0x3fe0000000000000u);
  if (m < 2.0 / 3.0) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1), square = s * s;
  double series = 0;
  QS_UNROLL
  for (int n = 21; n >= 1; n -= 2) series = series * square + 1.0 / n;
  return 2 * s * series + exponent * 0.6931471805599453;
}

// p / E of an id's exponential noise E = -log(1 - v).
QS_DEVICE double RatioOf(float p, double v) { return static_cast<double>(p) / -LogOf(1.0 - v); }
// Never above it: E < v / (1 - v), by far more than float loses here.
QS_DEVICE float LeastRatio(float p, double v) {
  const auto near = static_cast<float>(v);
  return p * (1.0f - near) / near * 0.9999f;
}

// The best of those that enter; lowest id among equals.
struct Racer {
  double ratio = 0;
  int32_t id = -1;
  QS_DEVICE void Enter(double other_ratio, int32_t other_id) {
    if (other_id < 0) return;
    if (id >= 0 && (other_ratio < ratio || (other_ratio == ratio && other_id > id))) return;
    ratio = other_ratio;
    id = other_id;
  }
};

// --- Over a block of kSampleThreads -----------------------------------------------------------

inline constexpr int kWarps = kSampleThreads / 32;

struct BlockScratch {
  uint64_t warps[kWarps];
  uint64_t result[2];
};

QS_DEVICE uint64_t WarpMax(uint64_t value) {
  QS_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint64_t other = ShuffleXor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// All threads get the result. The scratch may be used again at once.
QS_DEVICE uint64_t BlockMax(uint64_t value, BlockScratch* scratch) {
  value = WarpMax(value);
  SyncThreads();
  if (LaneIndex() == 0) scratch->warps[WarpIndex()] = value;
  SyncThreads();
  for (int i = 0; i < kWarps; ++i) {
    value = scratch->warps[i] > value ? scratch->warps[i] : value;
  }
  return value;
}

// Sum of the threads below this one; *total: of all. Whole numbers modulo 2^64.
QS_DEVICE uint64_t BlockSumBefore(uint64_t value, uint64_t* total, BlockScratch* scratch) {
  uint64_t sum = value;
  QS_UNROLL
  for (int delta = 1; delta < 32; delta *= 2) {
    const uint64_t other = ShuffleUp(sum, delta);
    if (LaneIndex() >= delta) sum += other;
  }
  SyncThreads();
  if (LaneIndex() == 31) scratch->warps[WarpIndex()] = sum;
  SyncThreads();
  uint64_t before = 0, all = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i < WarpIndex()) before += scratch->warps[i];
    all += scratch->warps[i];
  }
  *total = all;
  return before + sum - value;
}

QS_DEVICE Racer BlockRace(const Racer& own, BlockScratch* scratch) {
  // Positive doubles are ordered as their bits are.
  const uint64_t bits = own.id < 0 ? 0 : DoubleBits(own.ratio);
  const uint64_t best = BlockMax(bits, scratch);
  const bool leads = own.id >= 0 && bits == best;
  const uint64_t id = BlockMax(leads ? ~static_cast<uint32_t>(own.id) : 0u, scratch);
  Racer winner;
  if (id == 0) return winner;
  winner.ratio = BitsToDouble(best);
  winner.id = IdOf(id);
  return winner;
}

// The highest rank of a job's row, from what scan left. Each warp by itself.
QS_DEVICE uint64_t BestOf(const SampleArgs& args, int job) {
  const uint64_t* best = args.best + static_cast<int64_t>(job) * args.chunks;
  uint64_t rank = kNoRank;
  for (int i = LaneIndex(); i < args.chunks; i += 32) rank = best[i] > rank ? best[i] : rank;
  return WarpMax(rank);
}

QS_DEVICE float* LogitsOf(const SampleArgs& args, const SampleJob& job) {
  return args.logits + job.row * args.stride;
}

// The mass that top-p has to reach. At least one unit: the first id is always kept.
QS_DEVICE double TargetMass(float top_p, int64_t total) {
  const double target = static_cast<double>(top_p) * static_cast<double>(total);
  return target < 1 ? 1 : target;
}

}  // namespace
}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_SAMPLE_SAMPLE_MATH_H_
