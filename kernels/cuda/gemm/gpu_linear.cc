#include "kernels/cuda/gemm/gpu_linear.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/elementwise/elementwise_kernels.h"
#include "kernels/cuda/gemm/fragment_layout.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {
namespace {

uint32_t Blocks(int64_t count, int64_t each) {
  const int64_t blocks = CeilDiv(count, each);
  QS_CHECK(blocks > 0 && blocks < INT32_MAX);
  return static_cast<uint32_t>(blocks);
}

// Inputs as they lie in fragments.
int64_t InputsOf(const LinearWeight& weight) {
  return IsQuantized(weight.format) ? weight.packed_inputs : weight.in_features;
}

int64_t GroupsOf(const LinearWeight& weight) {
  return IsQuantized(weight.format) ? CeilDiv(weight.packed_inputs, weight.group_size) : 0;
}

LinearShape ShapeOf(const LinearWeight& weight) {
  return {FragmentFormatOf(weight.format), weight.out_features, InputsOf(weight)};
}

FragmentWeight FragmentsOf(const LinearWeight& weight) {
  const FragmentFormat format = FragmentFormatOf(weight.format);
  FragmentWeight fragments;
  fragments.data = weight.data.as<uint8_t>();
  fragments.out_features = static_cast<int32_t>(weight.out_features);
  fragments.tiles = static_cast<int32_t>(TilesOf(weight.out_features));
  fragments.granules = static_cast<int32_t>(GranulesOf(format, InputsOf(weight)));
  if (IsQuantized(weight.format)) {
    fragments.scales = weight.scales.as<uint16_t>();
    fragments.zeros = weight.zeros.as<uint8_t>();
    fragments.groups = static_cast<int32_t>(GroupsOf(weight));
    fragments.group_size = static_cast<int32_t>(
        std::min<int64_t>(weight.group_size, int64_t{fragments.granules} * GranuleInputs(format)));
    fragments.group_magic = GroupMagic(fragments.group_size / kEntryInputs);
    fragments.groups_cut_granules = fragments.group_size % GranuleInputs(format) != 0;
  }
  return fragments;
}

bool NeedsGather(const LinearWeight& weight) {
  return !weight.input_order.empty() || weight.in_features % kAlignedInputs != 0;
}

// Inputs of x as gathered: more than the weight has are never read.
int64_t GatheredInputs(const LinearWeight& weight) {
  return CeilDiv(weight.input_order.empty() ? weight.in_features : weight.packed_inputs,
                 kAlignedInputs) *
         kAlignedInputs;
}

// Gate and up as pairs of tiles.
bool IsPaired(const LinearWeight& weight) {
  return weight.format != WeightFormat::kF32 && weight.out_features % (2 * kTileRows) == 0;
}

}  // namespace

FragmentFormat FragmentFormatOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF16:
      return FragmentFormat::kF16;
    case WeightFormat::kInt8:
      return FragmentFormat::kInt8;
    case WeightFormat::kInt4:
      return FragmentFormat::kInt4;
    case WeightFormat::kBf16:
    case WeightFormat::kF32:
      break;
  }
  return FragmentFormat::kBf16;
}

GpuLinear::GpuLinear(GpuDevice& device, const GemmKernels& kernels, int num_sms,
                     const UploadOptions& upload)
    : device_(device), kernels_(kernels), num_sms_(num_sms), upload_(upload) {
  QS_CHECK(num_sms > 0);
}

absl::Status GpuLinear::Grow(Buffer* buffer, size_t bytes) {
  if (buffer->bytes() >= bytes) return absl::OkStatus();
  *buffer = Buffer();
  absl::StatusOr<Buffer> memory = AllocateGpuBuffer(device_, bytes);
  if (!memory.ok()) return memory.status();
  *buffer = *std::move(memory);
  return absl::OkStatus();
}

absl::Status GpuLinear::Reserve(const LinearWeight& weight) {
  if (weight.format == WeightFormat::kF32) return absl::OkStatus();
  const LinearWorkspace needed = WorkspaceOf(ShapeOf(weight), num_sms_);
  absl::Status status = Grow(&partials_, static_cast<size_t>(needed.partial_floats) * 4);
  if (status.ok()) status = Grow(&arrivals_, static_cast<size_t>(needed.arrivals) * 4);
  if (status.ok() && NeedsGather(weight)) {
    status = Grow(&gathered_, static_cast<size_t>(kGatherRows * GatheredInputs(weight) * 2));
  }
  return status;
}

void GpuLinear::Multiply(const uint16_t* x, int64_t x_inputs, int64_t rows,
                         const LinearWeight& weight, const float* bias, float* out,
                         uint16_t* activated) {
  const LinearShape shape = ShapeOf(weight);
  const bool paired = activated != nullptr;
  const LinearPlan plan = PlanLinear(shape, rows, paired, num_sms_);
  QS_CHECK(static_cast<size_t>(plan.partial_floats) * 4 <= partials_.bytes());
  QS_CHECK(static_cast<size_t>(plan.arrivals) * 4 <= arrivals_.bytes());
  QS_CHECK(reinterpret_cast<uintptr_t>(x) % kLaneBytes == 0 && x_inputs % kAlignedInputs == 0);
  QS_CHECK(plan.grid_y < 65536);
  LinearKernelArgs args;
  args.weight = FragmentsOf(weight);
  args.x = x;
  args.rows = static_cast<int32_t>(rows);
  args.x_inputs = static_cast<int32_t>(x_inputs);
  args.bias = bias;
  args.out = out;
  args.activated = activated;
  args.up_tile = paired ? args.weight.tiles / 2 : 0;
  args.parts = plan.parts;
  args.parts_per_block = plan.parts_per_block;
  args.partials = partials_.as<float>();
  args.arrivals = arrivals_.as<int32_t>();
  const LinearKernels& table = kernels_.linear[static_cast<int>(shape.format)];
  device_.Launch(plan.wide ? table.wide[plan.variant] : table.skinny[plan.variant],
                 {.grid_x = plan.grid_x,
                  .grid_y = plan.grid_y,
                  .grid_z = plan.grid_z,
                  .shared_bytes = static_cast<uint32_t>(plan.shared_bytes),
                  .overlaps_previous = true},
                 args);
}

void GpuLinear::GatherAndMultiply(const void* x, int64_t rows, const LinearWeight& weight,
                                  const float* bias, float* out, uint16_t* activated) {
  const auto* x_bf16 = static_cast<const uint16_t*>(x);
  if (!NeedsGather(weight)) {
    return Multiply(x_bf16, weight.in_features, rows, weight, bias, out, activated);
  }
  const int64_t inputs = GatheredInputs(weight);
  QS_CHECK(gathered_.bytes() >= static_cast<size_t>(kGatherRows * inputs * 2));
  for (int64_t row = 0; row < rows; row += kGatherRows) {
    const int64_t count = std::min(kGatherRows, rows - row);
    const GatherInputsArgs args = {
        .x = x_bf16 + row * weight.in_features,
        .order = weight.input_order.as<int32_t>(),
        .out = gathered_.as<uint16_t>(),
        .rows = static_cast<int32_t>(count),
        .in_features = static_cast<int32_t>(weight.in_features),
        .inputs = static_cast<int32_t>(weight.input_order.empty() ? weight.in_features
                                                                  : weight.packed_inputs),
        .out_inputs = static_cast<int32_t>(inputs)};
    device_.Launch(kernels_.gather_inputs, {.grid_x = Blocks(count, 1), .overlaps_previous = true},
                   args);
    Multiply(gathered_.as<uint16_t>(), inputs, count, weight, bias,
             out == nullptr ? nullptr : out + row * weight.out_features,
             activated == nullptr ? nullptr : activated + row * (weight.out_features / 2));
  }
}

void GpuLinear::MultiplyF32(const void* x, int64_t rows, const LinearWeight& weight,
                            const float* bias, float* out) {
  const LinearF32Args args = {.weight = weight.data.as<float>(),
                              .x = static_cast<const uint16_t*>(x),
                              .bias = bias,
                              .out = out,
                              .rows = static_cast<int32_t>(rows),
                              .in_features = static_cast<int32_t>(weight.in_features),
                              .out_features = static_cast<int32_t>(weight.out_features)};
  const LaunchShape shape = {.grid_x = Blocks(weight.out_features, kF32WarpsPerBlock),
                             .grid_y = Blocks(rows, kF32RowsPerBlock),
                             .overlaps_previous = true};
  QS_CHECK(shape.grid_y < 65536);
  device_.Launch(kernels_.linear_f32, shape, args);
}

void GpuLinear::Linear(const void* x, int64_t rows, const LinearWeight& weight, const float* bias,
                       float* out) {
  if (rows <= 0) return;
  if (weight.format == WeightFormat::kF32) return MultiplyF32(x, rows, weight, bias, out);
  GatherAndMultiply(x, rows, weight, bias, out, nullptr);
}

void GpuLinear::LinearSwiGlu(const void* x, int64_t rows, const LinearWeight& gate_up,
                             float* scratch, void* out) {
  if (rows <= 0) return;
  if (IsPaired(gate_up)) {
    return GatherAndMultiply(x, rows, gate_up, nullptr, nullptr, static_cast<uint16_t*>(out));
  }
  QS_CHECK(gate_up.out_features % 2 == 0);
  Linear(x, rows, gate_up, nullptr, scratch);
  const int64_t width = gate_up.out_features / 2;
  const int64_t units = width % 4 == 0 ? rows * width / 4 : rows * width;
  device_.Launch(kernels_.silu_mul,
                 {.grid_x = Blocks(units, kernels_.silu_mul.threads), .overlaps_previous = true},
                 SiluMulArgs{scratch, static_cast<uint16_t*>(out), units, width});
}

void GpuLinear::Embed(const int32_t* ids, int64_t rows, const LinearWeight& table, int64_t first_id,
                      float* out) {
  if (rows <= 0) return;
  EmbedArgs args;
  int kernel = kNumFragmentFormats;
  if (table.format == WeightFormat::kF32) {
    args.plain = table.data.as<float>();
    args.weight.out_features = static_cast<int32_t>(table.out_features);
  } else {
    args.weight = FragmentsOf(table);
    kernel = static_cast<int>(FragmentFormatOf(table.format));
  }
  args.order = table.input_order.as<int32_t>();
  args.ids = ids;
  args.first_id = first_id;
  args.out = out;
  args.in_features = static_cast<int32_t>(table.in_features);
  args.inputs = static_cast<int32_t>(InputsOf(table));
  device_.Launch(kernels_.embed[kernel], {.grid_x = Blocks(rows, 1), .overlaps_previous = true},
                 args);
}

void GpuLinear::Unpack(const LinearWeight& weight, void* out) {
  QS_CHECK(reinterpret_cast<uintptr_t>(out) % kLaneBytes == 0);
  UnpackArgs args;
  args.out = static_cast<uint16_t*>(out);
  args.order = weight.input_order.as<int32_t>();
  args.in_features = static_cast<int32_t>(weight.in_features);
  args.inputs = static_cast<int32_t>(InputsOf(weight));
  if (weight.format == WeightFormat::kF32) {
    args.plain = weight.data.as<float>();
    args.weight.out_features = static_cast<int32_t>(weight.out_features);
    const uint32_t blocks = Blocks(weight.out_features * weight.in_features, kPlainThreads);
    device_.Launch(kernels_.unpack[kNumFragmentFormats],
                   {.grid_x = blocks, .overlaps_previous = true}, args);
    return;
  }
  const LinearShape shape = ShapeOf(weight);
  args.weight = FragmentsOf(weight);
  const int64_t units = FragmentBytes(shape.format, shape.out_features, shape.inputs) / kUnitBytes;
  device_.Launch(kernels_.unpack[static_cast<int>(shape.format)],
                 {.grid_x = Blocks(units * kLanes, kPlainThreads), .overlaps_previous = true},
                 args);
}

}  // namespace qwenserve
