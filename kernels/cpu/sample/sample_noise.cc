#include "kernels/cpu/sample/sample_noise.h"

#include <cmath>

namespace qwenserve {
namespace {

// SplitMix64's finaliser (Steele, Lea, Flood 2014).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;

}  // namespace

// x = m * 2^e with m in [2/3, 4/3], log(m) = 2 atanh((m - 1) / (m + 1)).
double LogOf(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 2.0 / 3.0) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1), square = s * s;
  double series = 0;
  for (int n = 21; n >= 1; n -= 2) series = series * square + 1.0 / n;
  return 2 * s * series + exponent * 0.6931471805599453;
}

float LogprobOf(float logit, float max, int64_t mass) {
  // + 0.0: which zero the highest logit is depends on where it was looked for.
  const double above = static_cast<double>(logit) - static_cast<double>(max) + 0.0;
  return static_cast<float>(above - LogOf(static_cast<double>(mass) * kMassUnit));
}

uint64_t NoiseKey(const SampleRow& row) {
  uint64_t key = Mix(row.seed + kGolden);
  key = Mix(key + static_cast<uint64_t>(row.position) * kGolden + 1);
  return Mix(key + static_cast<uint64_t>(row.sample_index) * kGolden + 2);
}

double UniformOf(uint64_t key, int64_t id) {
  const uint64_t bits = Mix(key + (static_cast<uint64_t>(id) + 1) * kGolden);
  return static_cast<double>(2 * (bits >> 12) + 1) * 0x1p-53;
}

void Race::Enter(int32_t id, float p) {
  const double v = UniformOf(key_, id);
  // E = -log(1 - v) > v, so most ids lose without a logarithm.
  if (static_cast<double>(p) <= bound() * v) return;
  Merge(id, static_cast<double>(p) / -LogOf(1.0 - v));
}

void Race::Merge(int32_t id, double ratio) {
  if (id < 0 || (id_ >= 0 && (ratio < ratio_ || (ratio == ratio_ && id > id_)))) return;
  id_ = id;
  ratio_ = ratio;
}

}  // namespace qwenserve
