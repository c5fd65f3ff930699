#include "kernels/cuda/gemm/linear_kernels.cuh"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

LinearKernels GetLinearF16Kernels() {
  return MakeLinearKernels<FragmentFormat::kF16>("linear_skinny_f16", "linear_wide_f16");
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
