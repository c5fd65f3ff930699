#ifndef QWENSERVE_KERNELS_CUDA_SIMT_DEVICE_H_
#define QWENSERVE_KERNELS_CUDA_SIMT_DEVICE_H_

// The language of kernel bodies: what a thread of a GPU can do, under names of our own. A file of
// kernels (*.cu) is compiled by nvcc, where they are instructions, and by the host's compiler,
// where they are emulated lane by lane. The bodies are the same text.
//
// Kernels, and whatever else has device code in it, live in namespace
// qwenserve::QS_DEVICE_NAMESPACE (on_cuda or on_simt), so that both builds can be in one program. A
// kernel is a struct:
//
//   struct RmsNorm {
//     using Args = RmsNormArgs;                // plain data
//     static constexpr int kThreads = 256;     // of a block
//     static constexpr int kMinBlocks = 2;     // at once on a multiprocessor, for the registers
//     QS_DEVICE static void Run(const Args& args);
//   };
//   GpuKernel kernel = MakeKernel<RmsNorm>("rms_norm");
//
// Rules: blocks have one dimension; all shared memory is dynamic (SharedMemory()); no device code
// calls the C library; a product and a sum become one rounding only where Fma says so; threads of a
// warp meet only in the functions below, all of which take all 32 lanes.
#ifdef __CUDACC__
#include "kernels/cuda/simt/device_cuda.h"
#else
#include "kernels/cuda/simt/device_host.h"
#endif

#endif  // QWENSERVE_KERNELS_CUDA_SIMT_DEVICE_H_
