#ifndef QWENSERVE_KERNELS_CUDA_SIMT_WARP_OPS_H_
#define QWENSERVE_KERNELS_CUDA_SIMT_WARP_OPS_H_

// What the lanes of a warp do together, once all 32 have brought their arguments (device_host.h).
#include <cstdint>

#include "kernels/cuda/simt/grid.h"

namespace qwenserve::simt {

template <typename T>
struct ShufflePayload {
  T value;
  int lane;
  T result;
};

template <typename T>
void ResolveShuffle(void* const payloads[kWarpSize]) {
  for (int i = 0; i < kWarpSize; ++i) {
    auto* to = static_cast<ShufflePayload<T>*>(payloads[i]);
    to->result = static_cast<const ShufflePayload<T>*>(payloads[to->lane % kWarpSize])->value;
  }
}

// The value of `lane`, modulo 32 as the machine does.
template <typename T>
T Exchange(T value, int lane, const Meeting& meeting, Where where) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  ShufflePayload<T> payload = {value, lane & (kWarpSize - 1), value};
  current_thread->block->Meet(meeting, &payload, where);
  return payload.result;
}

struct BallotPayload {
  bool predicate;
  uint32_t result;
};
void ResolveBallot(void* const payloads[kWarpSize]);

struct MatrixPayload {
  uint32_t* r;
  const void* row;
};
void ResolveLoadMatrix4(void* const payloads[kWarpSize]);
void ResolveLoadMatrix4Transposed(void* const payloads[kWarpSize]);
void ResolveLoadMatrix2(void* const payloads[kWarpSize]);
// `row` of a lane that gives no address is not looked at.
void LoadMatrix(const Meeting& meeting, uint32_t* r, const void* row, bool gives_address,
                Where where);

struct MmaPayload {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};
void ResolveMmaBf16(void* const payloads[kWarpSize]);

// a * b + c on pairs of bf16, each rounded once.
uint32_t FmaPair(uint32_t a, uint32_t b, uint32_t c);

template <typename T>
T AtomicMaxOf(T* at, T value) {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (old < value &&
         !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

}  // namespace qwenserve::simt

#endif  // QWENSERVE_KERNELS_CUDA_SIMT_WARP_OPS_H_
