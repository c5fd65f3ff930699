// Linked instead of the CUDA backend in a build without CUDA.
#include "kernels/backend.h"

namespace qwenserve {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions&) {
  return absl::UnimplementedError("this build has no CUDA backend");
}

}  // namespace qwenserve
