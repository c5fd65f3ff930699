#ifndef QWENSERVE_ENGINE_RUNTIME_FINGERPRINT_H_
#define QWENSERVE_ENGINE_RUNTIME_FINGERPRINT_H_

#include <string>

#include "engine/loader/checkpoint.h"
#include "kernels/kv_format.h"

namespace qwenserve {

// Raised by hand with every change that may alter the bits of a result: an op's order of sums, the
// random numbers, the order of the sampling steps, the sum over ranks.
inline constexpr int kNumericsVersion = 2;

// Hex hash of everything that decides a token besides the request: replicas with equal fingerprints
// give equal tokens. `content_hash` is the checkpoint's, `weight_numerics` as ModelRunner tells it.
std::string NumericsFingerprint(const Checkpoint& checkpoint, const std::string& content_hash,
                                const std::string& weight_numerics, KvFormat kv_format, int tp);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_RUNTIME_FINGERPRINT_H_
