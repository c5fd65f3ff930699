#ifndef QWENSERVE_KERNELS_CUDA_GEMM_LINEAR_KERNELS_CUH_
#define QWENSERVE_KERNELS_CUDA_GEMM_LINEAR_KERNELS_CUH_

// The table of one format's products; one .cu file for each, so that they compile side by side.
#include "kernels/cuda/gemm/skinny.cuh"
#include "kernels/cuda/gemm/wide.cuh"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

template <FragmentFormat kFormat>
LinearKernels MakeLinearKernels(const char* skinny, const char* wide) {
  LinearKernels kernels;
  kernels.skinny[0] = MakeKernel<Skinny<kFormat, 0>>(skinny);
  kernels.skinny[1] = MakeKernel<Skinny<kFormat, 1>>(skinny);
  kernels.skinny[2] = MakeKernel<Skinny<kFormat, 2>>(skinny);
  if constexpr (HasSkinny(kFormat, 3)) kernels.skinny[3] = MakeKernel<Skinny<kFormat, 3>>(skinny);
  if constexpr (HasSkinny(kFormat, 4)) kernels.skinny[4] = MakeKernel<Skinny<kFormat, 4>>(skinny);
  kernels.wide[0] = MakeKernel<Wide<kFormat, 0>>(wide);
  if constexpr (HasWide(kFormat, kWideRows[1]))
    kernels.wide[1] = MakeKernel<Wide<kFormat, 1>>(wide);
  return kernels;
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_GEMM_LINEAR_KERNELS_CUH_
