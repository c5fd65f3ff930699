#ifndef QWENSERVE_KERNELS_CUDA_SIMT_DEVICE_HOST_H_
#define QWENSERVE_KERNELS_CUDA_SIMT_DEVICE_HOST_H_

// device.h for the host's compiler: the same functions with the same meaning, lane by lane, over
// the fibers of grid.h. What they do is said in device_cuda.h; here only what differs.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cuda/runtime/gpu_kernel.h"
#include "kernels/cuda/simt/grid.h"
#include "kernels/cuda/simt/vector_types.h"
#include "kernels/cuda/simt/warp_ops.h"
#include "kernels/dtype.h"

#define QS_DEVICE_NAMESPACE on_simt
#define QS_DEVICE inline
#define QS_SHARED_FN constexpr
#define QS_UNROLL
#define QS_NO_UNROLL

namespace qwenserve::on_simt {

using simt::Where;

// --- Where am I -------------------------------------------------------------------------------

inline int ThreadIndex() { return simt::current_thread->index; }
inline int LaneIndex() { return simt::current_thread->index % simt::kWarpSize; }
inline int WarpIndex() { return simt::current_thread->index / simt::kWarpSize; }
inline int BlockThreads() { return simt::current_thread->block->threads; }
inline GridIndex BlockIndex() { return simt::current_thread->block->index; }
inline GridIndex GridSize() { return simt::current_thread->block->grid; }
inline char* SharedMemory() { return simt::current_thread->block->shared; }

// --- Meeting others ---------------------------------------------------------------------------

inline void SyncThreads(Where where = Where::Here()) {
  simt::Block* block = simt::current_thread->block;
  block->Meet({"SyncThreads", nullptr, 0, block->threads}, nullptr, where);
}
inline void SyncWarp(Where where = Where::Here()) {
  simt::current_thread->block->Meet({"SyncWarp"}, nullptr, where);
}
inline void SyncNamed(int id, int threads, Where where = Where::Here()) {
  simt::Block* block = simt::current_thread->block;
  if (id < 1 || id >= simt::kNumBarriers) block->Die("names a barrier that is not in 1..15", where);
  block->Meet({"SyncNamed", nullptr, id, threads}, nullptr, where);
}
template <typename T>
T Shuffle(T value, int lane, Where where = Where::Here()) {
  return simt::Exchange(value, lane, {"Shuffle", &simt::ResolveShuffle<T>}, where);
}
template <typename T>
T ShuffleXor(T value, int mask, Where where = Where::Here()) {
  return simt::Exchange(value, LaneIndex() ^ mask, {"ShuffleXor", &simt::ResolveShuffle<T>}, where);
}
template <typename T>
T ShuffleDown(T value, int delta, Where where = Where::Here()) {
  const int from = LaneIndex() + delta;
  return simt::Exchange(value, from < simt::kWarpSize ? from : LaneIndex(),
                        {"ShuffleDown", &simt::ResolveShuffle<T>}, where);
}
template <typename T>
T ShuffleUp(T value, int delta, Where where = Where::Here()) {
  const int from = LaneIndex() - delta;
  return simt::Exchange(value, from >= 0 ? from : LaneIndex(),
                        {"ShuffleUp", &simt::ResolveShuffle<T>}, where);
}
inline uint32_t Ballot(bool predicate, Where where = Where::Here()) {
  simt::BallotPayload payload = {predicate, 0};
  simt::current_thread->block->Meet({"Ballot", &simt::ResolveBallot}, &payload, where);
  return payload.result;
}
// Real ones: another OS thread may run another device.
inline int32_t AtomicAdd(int32_t* at, int32_t value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline uint32_t AtomicAdd(uint32_t* at, uint32_t value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline uint64_t AtomicAdd(uint64_t* at, uint64_t value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline int32_t AtomicMax(int32_t* at, int32_t value) { return simt::AtomicMaxOf(at, value); }
inline uint32_t AtomicMax(uint32_t* at, uint32_t value) { return simt::AtomicMaxOf(at, value); }
inline uint64_t AtomicMax(uint64_t* at, uint64_t value) { return simt::AtomicMaxOf(at, value); }
inline uint32_t AtomicOr(uint32_t* at, uint32_t value) {
  return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
inline void ThreadFence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void GridDependencyTrigger() {}
inline void GridDependencyWait() { simt::current_thread->block->waited_for_previous = true; }

// --- Memory -----------------------------------------------------------------------------------

inline Word4 LoadStreaming(const void* global, Where where = Where::Here()) {
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    simt::current_thread->block->Die("loads from an address that is not a multiple of 16", where);
  }
  Word4 v;
  std::memcpy(&v, global, sizeof(v));
  return v;
}
inline float LoadFromL2(const float* global) { return *global; }
inline int32_t LoadFromL2(const int32_t* global) { return *global; }
inline Float4 LoadFromL2(const Float4* global) { return *global; }
inline void CopyAsync16(void* shared, const void* global, bool valid, Where where = Where::Here()) {
  simt::StartCopy(shared, global, valid, where);
}
inline void CopyAsyncCommit() { simt::CommitCopies(); }
template <int kPending>
void CopyAsyncWait() {
  simt::WaitForCopies(kPending);
}
inline void PrefetchL2(const void* global) { (void)global; }

// --- Tensor cores -----------------------------------------------------------------------------

inline void LoadMatrix4(uint32_t r[4], const void* shared_row, Where where = Where::Here()) {
  simt::LoadMatrix({"LoadMatrix4", &simt::ResolveLoadMatrix4}, r, shared_row, true, where);
}
inline void LoadMatrix4Transposed(uint32_t r[4], const void* shared_row,
                                  Where where = Where::Here()) {
  simt::LoadMatrix({"LoadMatrix4Transposed", &simt::ResolveLoadMatrix4Transposed}, r, shared_row,
                   true, where);
}
inline void LoadMatrix2(uint32_t r[2], const void* shared_row, Where where = Where::Here()) {
  simt::LoadMatrix({"LoadMatrix2", &simt::ResolveLoadMatrix2}, r, shared_row, LaneIndex() < 16,
                   where);
}
// Products are exact, sums are float and ascend with k, from d.
inline void MmaBf16(float d[4], const uint32_t a[4], const uint32_t b[2],
                    Where where = Where::Here()) {
  simt::MmaPayload payload = {d, a, b};
  simt::current_thread->block->Meet({"MmaBf16", &simt::ResolveMmaBf16}, &payload, where);
}

// --- Numbers ----------------------------------------------------------------------------------

inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline double Fma(double a, double b, double c) { return std::fma(a, b, c); }
inline float SquareRoot(float x) { return std::sqrt(x); }
// The number if one is NaN; +0 is above -0.
inline float Max(float a, float b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}
inline float Min(float a, float b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
T Max(T, T) = delete;  // would go by way of float
template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
T Min(T, T) = delete;
inline float Abs(float a) { return std::fabs(a); }
inline float RoundToEven(float x) { return std::nearbyint(x); }
inline double RoundToEven(double x) { return std::nearbyint(x); }
// The nearest float; subnormals are 0, going in and coming out.
inline float Exp2Fast(float x) {
  const float y = static_cast<float>(std::exp2(static_cast<double>(x)));
  return y < 0x1p-126f ? 0.0f : y;
}
inline uint32_t FloatBits(float x) { return std::bit_cast<uint32_t>(x); }
inline float BitsToFloat(uint32_t x) { return std::bit_cast<float>(x); }
inline uint64_t DoubleBits(double x) { return std::bit_cast<uint64_t>(x); }
inline double BitsToDouble(uint64_t x) { return std::bit_cast<double>(x); }
// The machine has one NaN.
inline uint16_t FloatToBf16(float x) { return x != x ? 0x7fff : qwenserve::FloatToBf16(x); }
inline float Bf16ToFloat(uint16_t x) { return qwenserve::Bf16ToFloat(x); }
inline uint32_t PackBf16(float low, float high) {
  return FloatToBf16(low) | uint32_t{FloatToBf16(high)} << 16;
}
inline float HalfToFloat(uint16_t x) { return F16ToFloat(x); }
inline uint32_t PermuteBytes(uint32_t a, uint32_t b, uint32_t selector,
                             Where where = Where::Here()) {
  if ((selector & 0x8888u) != 0) {
    simt::current_thread->block->Die("selects a byte above 7", where);
  }
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) {
    r |= static_cast<uint32_t>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  }
  return r;
}
template <uint32_t kMask, uint32_t kBits>
uint32_t AndOr(uint32_t a) {
  return (a & kMask) | kBits;
}
inline uint32_t FmaBf16x2(uint32_t a, uint32_t b, uint32_t c) { return simt::FmaPair(a, b, c); }
inline int Opaque(int x) { return x; }
inline int PopCount(uint32_t x) { return std::popcount(x); }
inline int LeadingZeros(uint32_t x) { return std::countl_zero(x); }
inline int LowestBit(uint32_t x) { return x == 0 ? -1 : std::countr_zero(x); }
inline uint64_t MultiplyHigh(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((Wide{a} * b) >> 64);
}

// --- Kernels ----------------------------------------------------------------------------------

template <typename Kernel>
void Entry(const void* args) {
  Kernel::Run(*static_cast<const typename Kernel::Args*>(args));
}

template <typename Kernel>
GpuKernel MakeKernel(const char* name) {
  static_assert(std::is_trivially_copyable_v<typename Kernel::Args>);
  static_assert(Kernel::kThreads % simt::kWarpSize == 0 && Kernel::kMinBlocks > 0);
  return {name, reinterpret_cast<const void*>(&Entry<Kernel>), sizeof(typename Kernel::Args),
          Kernel::kThreads};
}

}  // namespace qwenserve::on_simt

#endif  // QWENSERVE_KERNELS_CUDA_SIMT_DEVICE_HOST_H_
