#ifndef QWENSERVE_KERNELS_CUDA_SIMT_DEVICE_CUDA_H_
#define QWENSERVE_KERNELS_CUDA_SIMT_DEVICE_CUDA_H_

// device.h for nvcc. Instructions are those of the PTX ISA 8.8 (sm_80 and later).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/runtime/gpu_kernel.h"
#include "kernels/cuda/simt/vector_types.h"

#define QS_DEVICE_NAMESPACE on_cuda
#define QS_DEVICE __device__ __forceinline__
// A function for kernels and for the host alike: layouts, plans.
#define QS_SHARED_FN __host__ __device__ constexpr
#define QS_UNROLL _Pragma("unroll")
// A loop that unrolling would only cost registers.
#define QS_NO_UNROLL _Pragma("unroll 1")

namespace qwenserve::on_cuda {

// --- Where am I -------------------------------------------------------------------------------

QS_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
QS_DEVICE int LaneIndex() { return static_cast<int>(threadIdx.x & 31u); }
QS_DEVICE int WarpIndex() { return static_cast<int>(threadIdx.x >> 5); }
QS_DEVICE int BlockThreads() { return static_cast<int>(blockDim.x); }
QS_DEVICE GridIndex BlockIndex() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
QS_DEVICE GridIndex GridSize() { return {gridDim.x, gridDim.y, gridDim.z}; }
// The block's dynamic shared memory, aligned to 128 bytes.
QS_DEVICE char* SharedMemory() {
  extern __shared__ __align__(128) char shared[];
  return shared;
}

// --- Meeting others ---------------------------------------------------------------------------

QS_DEVICE void SyncThreads() { __syncthreads(); }
QS_DEVICE void SyncWarp() { __syncwarp(); }
// `threads` threads (whole warps) meet at barrier `id` of 1..15.
QS_DEVICE void SyncNamed(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// The value of `lane`; of the lane whose index differs by `mask`; of the lane `delta` above (own
// value past lane 31). T has 4 or 8 bytes.
template <typename T>
QS_DEVICE T Shuffle(T value, int lane) {
  return __shfl_sync(~0u, value, lane);
}
template <typename T>
QS_DEVICE T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}
template <typename T>
QS_DEVICE T ShuffleDown(T value, int delta) {
  return __shfl_down_sync(~0u, value, delta);
}
template <typename T>
QS_DEVICE T ShuffleUp(T value, int delta) {
  return __shfl_up_sync(~0u, value, delta);
}
QS_DEVICE uint32_t Ballot(bool predicate) { return __ballot_sync(~0u, predicate); }
// Returns the old value. Global or shared memory.
QS_DEVICE int32_t AtomicAdd(int32_t* at, int32_t value) { return atomicAdd(at, value); }
QS_DEVICE uint32_t AtomicAdd(uint32_t* at, uint32_t value) { return atomicAdd(at, value); }
QS_DEVICE uint64_t AtomicAdd(uint64_t* at, uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(at),
                   static_cast<unsigned long long>(value));
}
QS_DEVICE int32_t AtomicMax(int32_t* at, int32_t value) { return atomicMax(at, value); }
QS_DEVICE uint32_t AtomicMax(uint32_t* at, uint32_t value) { return atomicMax(at, value); }
QS_DEVICE uint64_t AtomicMax(uint64_t* at, uint64_t value) {
  return atomicMax(reinterpret_cast<unsigned long long*>(at),
                   static_cast<unsigned long long>(value));
}
QS_DEVICE uint32_t AtomicOr(uint32_t* at, uint32_t value) { return atomicOr(at, value); }
// Writes before it are seen by every block that sees a write after it.
QS_DEVICE void ThreadFence() { __threadfence(); }
// Programmatic dependent launch: the next kernel may start; the previous ones' results are there.
QS_DEVICE void GridDependencyTrigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
QS_DEVICE void GridDependencyWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// --- Memory -----------------------------------------------------------------------------------

// 16 bytes that are read once and that nobody writes while the kernel runs: past the first cache.
QS_DEVICE Word4 LoadStreaming(const void* global) {
  Word4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}
// What another block wrote in this kernel, or what changes from step to step and is read before
// GridDependencyWait: from the second cache.
QS_DEVICE float LoadFromL2(const float* global) { return __ldcg(global); }
QS_DEVICE int32_t LoadFromL2(const int32_t* global) { return __ldcg(global); }
QS_DEVICE Float4 LoadFromL2(const Float4* global) {
  const float4 v = __ldcg(reinterpret_cast<const float4*>(global));
  return {v.x, v.y, v.z, v.w};
}
// 16 bytes from global to shared memory, in the background; zeros where !valid (nothing is read).
QS_DEVICE void CopyAsync16(void* shared, const void* global, bool valid) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
               "r"(bytes)
               : "memory");
}
QS_DEVICE void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `kPending` of this thread's groups are under way.
template <int kPending>
QS_DEVICE void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// Asks for the cache line to come to the second cache.
QS_DEVICE void PrefetchL2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// --- Tensor cores -----------------------------------------------------------------------------

// Four 8x8 matrices of 16 bit elements: lane i gives the address of row i % 8 of matrix i / 8 (16
// bytes, aligned); r[j] gets elements 2 * (lane % 4) and the next of row lane / 4 of matrix j.
QS_DEVICE void LoadMatrix4(uint32_t r[4], const void* shared_row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
// The same, each matrix transposed: r[j] gets rows 2 * (lane % 4) and the next of column lane / 4.
QS_DEVICE void LoadMatrix4Transposed(uint32_t r[4], const void* shared_row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
// Two matrices; lanes 0..15 give the addresses.
QS_DEVICE void LoadMatrix2(uint32_t r[2], const void* shared_row) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(at)
               : "memory");
}
// d += a * b, a [16 x 16] bf16, b [16 x 8] bf16, d [16 x 8] float. With g = lane / 4, t = lane % 4:
//   a[0]: row g,     columns 2t, 2t+1      b[0]: rows 2t, 2t+1 of column g
//   a[1]: row g + 8, columns 2t, 2t+1      b[1]: rows 2t+8, 2t+9 of column g
//   a[2]: row g,     columns 2t+8, 2t+9    d[0], d[1]: row g,     columns 2t, 2t+1
//   a[3]: row g + 8, columns 2t+8, 2t+9    d[2], d[3]: row g + 8, columns 2t, 2t+1
// The lower half of a register is the lower index (PTX ISA, "mma.m16n8k16").
QS_DEVICE void MmaBf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// --- Numbers ----------------------------------------------------------------------------------

QS_DEVICE float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
QS_DEVICE double Fma(double a, double b, double c) { return __fma_rn(a, b, c); }
QS_DEVICE float SquareRoot(float x) { return __fsqrt_rn(x); }
QS_DEVICE float Max(float a, float b) { return fmaxf(a, b); }
QS_DEVICE float Min(float a, float b) { return fminf(a, b); }
template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
T Max(T, T) = delete;  // would go by way of float
template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
T Min(T, T) = delete;
QS_DEVICE float Abs(float a) { return fabsf(a); }
QS_DEVICE float RoundToEven(float x) { return rintf(x); }
QS_DEVICE double RoundToEven(double x) { return rint(x); }
// 2^x by the machine: relative error below 2^-22; the emulation's own is exact, so what uses it has
// other bits there.
QS_DEVICE float Exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
QS_DEVICE uint32_t FloatBits(float x) { return __float_as_uint(x); }
QS_DEVICE float BitsToFloat(uint32_t x) { return __uint_as_float(x); }
QS_DEVICE uint64_t DoubleBits(double x) { return static_cast<uint64_t>(__double_as_longlong(x)); }
QS_DEVICE double BitsToDouble(uint64_t x) { return __longlong_as_double(static_cast<int64_t>(x)); }
// bf16: the upper half of a float, rounded to nearest even.
QS_DEVICE uint16_t FloatToBf16(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
QS_DEVICE float Bf16ToFloat(uint16_t x) { return __uint_as_float(uint32_t{x} << 16); }
// Two bf16 in a register, `low` in the lower half.
QS_DEVICE uint32_t PackBf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
QS_DEVICE float HalfToFloat(uint16_t x) { return __half2float(__ushort_as_half(x)); }
// Byte i of the result is byte selector[4i .. 4i+3] of the eight bytes b:a (a the lower four).
QS_DEVICE uint32_t PermuteBytes(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}
// (a & kMask) | kBits in one instruction.
template <uint32_t kMask, uint32_t kBits>
QS_DEVICE uint32_t AndOr(uint32_t a) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(a), "n"(kMask), "n"(kBits));
  return r;
}
// a * b + c on pairs of bf16, one rounding each; a - b.
QS_DEVICE uint32_t FmaBf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
// x, of which the compiler knows nothing more: a sum with it stays one, and a constant in it
// becomes part of the load.
QS_DEVICE int Opaque(int x) {
  asm("" : "+r"(x));
  return x;
}
QS_DEVICE int PopCount(uint32_t x) { return __popc(x); }
QS_DEVICE int LeadingZeros(uint32_t x) { return __clz(static_cast<int>(x)); }
QS_DEVICE int LowestBit(uint32_t x) { return __ffs(static_cast<int>(x)) - 1; }  // -1 for 0
QS_DEVICE uint64_t MultiplyHigh(uint64_t a, uint64_t b) { return __umul64hi(a, b); }

// --- Kernels ----------------------------------------------------------------------------------

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kMinBlocks)
    Entry(const __grid_constant__ typename Kernel::Args args) {
  Kernel::Run(args);
}

template <typename Kernel>
GpuKernel MakeKernel(const char* name) {
  return {name, reinterpret_cast<const void*>(&Entry<Kernel>), sizeof(typename Kernel::Args),
          Kernel::kThreads};
}

}  // namespace qwenserve::on_cuda

#endif  // QWENSERVE_KERNELS_CUDA_SIMT_DEVICE_CUDA_H_
