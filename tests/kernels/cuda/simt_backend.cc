#include "tests/kernels/cuda/simt_backend.h"

#include <utility>

namespace qwenserve {

absl::StatusOr<std::unique_ptr<Backend>> MakeSimtBackend(uint64_t seed,
                                                         std::shared_ptr<SimtFaults> faults,
                                                         GpuBackendOptions options) {
  // Its mma adds in an order of its own: not the name of any GPU.
  options.table_name = "cuda-simt";
  // The emulation fills memory with garbage: tests would wait for that.
  options.upload.buffer_bytes = size_t{1} << 16;
  options.upload.buffers = 2;
  options.upload.readers = 1;
  options.attention.workspace_bytes = size_t{1} << 18;
  return GpuBackend::Create(MakeSimtDevice(seed, std::move(faults)), on_simt::GetGpuKernels(),
                            options);
}

}  // namespace qwenserve
