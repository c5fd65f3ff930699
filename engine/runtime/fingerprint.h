#ifndef QWENSERVE_ENGINE_RUNTIME_FINGERPRINT_H_
#define QWENSERVE_ENGINE_RUNTIME_FINGERPRINT_H_

#include <string>

#include "engine/loader/checkpoint.h"
#include "kernels/dtype.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// Raised by hand with every change that may alter the bits of a result: an op's order of sums, the
// random numbers, the order of the sampling steps, the sum over ranks.
inline constexpr int kNumericsVersion = 1;

// Hex hash of everything that decides a token besides the request: replicas with equal fingerprints
// give equal tokens.
std::string NumericsFingerprint(const Checkpoint& checkpoint, WeightFormat weight_format,
                                DType kv_dtype, const std::string& kernel_table, int tp);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_FINGERPRINT_H_
