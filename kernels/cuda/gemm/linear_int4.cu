#include "kernels/cuda/gemm/linear_kernels.cuh"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

LinearKernels GetLinearInt4Kernels() {
  return MakeLinearKernels<FragmentFormat::kInt4>("linear_skinny_int4", "linear_wide_int4");
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
