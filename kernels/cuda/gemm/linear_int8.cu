#include "kernels/cuda/gemm/linear_kernels.cuh"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

LinearKernels GetLinearInt8Kernels() {
  return MakeLinearKernels<FragmentFormat::kInt8>("linear_skinny_int8", "linear_wide_int8");
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
