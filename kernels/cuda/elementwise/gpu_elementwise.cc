#include "kernels/cuda/elementwise/gpu_elementwise.h"

#include "kernels/check.h"

namespace qwenserve {
namespace {

constexpr int64_t kWarp = 32;
constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;

uint32_t Blocks(int64_t count, int64_t each) {
  const int64_t blocks = (count + each - 1) / each;
  QS_CHECK(blocks > 0 && blocks <= kMaxBlocks);
  return static_cast<uint32_t>(blocks);
}

}  // namespace

void GpuElementwise::AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual,
                                const float* weight, float epsilon, void* out) {
  QS_CHECK(width > 0 && width < INT32_MAX / 2);
  if (rows == 0) return;
  const GpuKernel& kernel =
      width <= kNarrowNorm ? kernels_.rms_norm_narrow : kernels_.rms_norm_wide;
  LaunchShape shape;
  shape.grid_x = Blocks(rows, 1);
  shape.shared_bytes = static_cast<uint32_t>(kernel.threads / kWarp * sizeof(float));
  shape.overlaps_previous = true;
  device_.Launch(kernel, shape,
                 RmsNormArgs{x, residual, weight, static_cast<uint16_t*>(out),
                             static_cast<int32_t>(width), epsilon});
}

void GpuElementwise::SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) {
  if (rows * width == 0) return;
  const int64_t units = width % 4 == 0 ? rows * width / 4 : rows * width;
  const LaunchShape shape = {.grid_x = Blocks(units, kernels_.silu_mul.threads),
                             .overlaps_previous = true};
  device_.Launch(kernels_.silu_mul, shape,
                 SiluMulArgs{gate_up, static_cast<uint16_t*>(out), units, width});
}

void GpuElementwise::GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows,
                                void* out) {
  if (num_rows == 0) return;
  const LaunchShape shape = {.grid_x = Blocks(num_rows, 1), .overlaps_previous = true};
  device_.Launch(
      kernels_.gather_rows, shape,
      GatherRowsArgs{static_cast<const uint16_t*>(x), rows, static_cast<uint16_t*>(out), width});
}

void GpuElementwise::TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) {
  if (rows == 0) return;
  const LaunchShape shape = {.grid_x = Blocks(rows, kernels_.take_drawn.threads),
                             .overlaps_previous = true};
  device_.Launch(kernels_.take_drawn, shape, TakeDrawnArgs{drawn, ids, rows});
}

}  // namespace qwenserve
