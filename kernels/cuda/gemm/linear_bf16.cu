#include "kernels/cuda/gemm/linear_kernels.cuh"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

LinearKernels GetLinearBf16Kernels() {
  return MakeLinearKernels<FragmentFormat::kBf16>("linear_skinny_bf16", "linear_wide_bf16");
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
