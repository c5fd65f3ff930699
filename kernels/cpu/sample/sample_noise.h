#ifndef QWENSERVE_KERNELS_CPU_SAMPLE_SAMPLE_NOISE_H_
#define QWENSERVE_KERNELS_CPU_SAMPLE_SAMPLE_NOISE_H_

#include <cstdint>

#include "kernels/sample_row.h"

namespace qwenserve {

// The numbers behind sampling, from basic operations only, so that no library decides the bits.
// Definitions: kernels/README.md, "Sample".

// Sums of probabilities are kept in these units, where they are exact in any order.
inline constexpr double kMassUnit = 0x1p-42;
inline int64_t MassOf(float p) {
  // In [1024, 2048) a double's last bit is 2^-42.
  return static_cast<int64_t>(((static_cast<double>(p) + 1536.0) - 1536.0) * 0x1p42);
}

// Natural logarithm of x > 0.
double LogOf(double x);

// The logarithm of a token's softmax: `mass` is the sum of exp(logit - max) in kMassUnits.
float LogprobOf(float logit, float max, int64_t mass);

// The key of a row's noise, and the uniform value in (0, 1) of one id: an odd multiple of 2^-53.
uint64_t NoiseKey(const SampleRow& row);
double UniformOf(uint64_t key, int64_t id);

// The id with the highest p / E, E exponential noise of the id, the lowest among equals: Gumbel-max
// without the logarithm of p. The result doesn't depend on the order in which ids enter, or on
// what parts of the vocabulary are raced apart and merged.
class Race {
 public:
  explicit Race(uint64_t key) : key_(key) {}
  // p > 0.
  void Enter(int32_t id, float p);
  void Merge(int32_t id, double ratio);

  // Who has p at or below this times its uniform value cannot win.
  double bound() const { return ratio_ * (1 - 1e-12); }
  int32_t id() const { return id_; }  // -1: nobody has entered
  double ratio() const { return ratio_; }

 private:
  uint64_t key_;
  int32_t id_ = -1;
  double ratio_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CPU_SAMPLE_SAMPLE_NOISE_H_
