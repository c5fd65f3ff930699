// The matrix products of CpuBackend: how they are cut for the threads.
#include <cstdint>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_weight.h"

namespace qwenserve {
namespace {

constexpr size_t kAlignment = 64;

size_t RoundUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void CpuBackend::Linear(const float* x, int64_t rows, const LinearWeight& weight, const float* bias,
                        float* out) {
  if (rows <= 0) return;
  if (IsQuantized(weight.format)) return QuantLinear(x, rows, weight, bias, out);
  if (weight.format == WeightFormat::kBf16 && bf16_pairs()) {
    return Bf16DotLinear(x, rows, weight, bias, out);
  }
  const LinearArgs args = {.x = x,
                           .rows = rows,
                           .weight = weight.data.data(),
                           .in_features = weight.in_features,
                           .out_features = weight.out_features,
                           .bias = bias,
                           .out = out};
  const auto kernel = kernels_.linear[static_cast<int>(weight.format)];
  ParallelFor(NumPanels(weight.out_features), kPanelColumns * weight.in_features,
              [&](int64_t begin, int64_t end, int thread) {
                kernel(args, begin, end, Scratch(thread, kLinearScratchFloats));
              });
}

char* CpuBackend::Activations(size_t bytes) {
  if (activations_.size() < bytes + kAlignment) activations_.resize(bytes + kAlignment);
  char* start = activations_.data();
  return start + RoundUp(reinterpret_cast<uintptr_t>(start)) - reinterpret_cast<uintptr_t>(start);
}

void CpuBackend::QuantLinear(const float* x, int64_t rows, const LinearWeight& weight,
                             const float* bias, float* out) {
  const int64_t blocks = weight.packed_inputs / kQuantBlock;
  const int64_t groups = (weight.packed_inputs + weight.group_size - 1) / weight.group_size;
  const size_t codes = RoundUp(static_cast<size_t>(rows * weight.packed_inputs));
  char* memory = Activations(codes + static_cast<size_t>((blocks + groups) * rows) * sizeof(float));
  QuantActivations rounded;
  rounded.codes = reinterpret_cast<int8_t*>(memory);
  rounded.scales = reinterpret_cast<float*>(memory + codes);
  rounded.sums = rounded.scales + blocks * rows;
  rounded.rows = rows;
  const QuantizeArgs quantize = {.x = x,
                                 .in_features = weight.in_features,
                                 .input_order = weight.input_order.as<int32_t>(),
                                 .packed_inputs = weight.packed_inputs,
                                 .group_size = weight.group_size,
                                 .out = rounded};
  ParallelFor(rows, weight.packed_inputs, [&](int64_t begin, int64_t end, int) {
    kernels_.quantize_rows(quantize, begin, end);
  });
  const QuantLinearArgs args = {.x = rounded,
                                .weight = weight.data.data(),
                                .scales = weight.scales.as<uint16_t>(),
                                .zeros = weight.zeros.as<uint8_t>(),
                                .packed_inputs = weight.packed_inputs,
                                .group_size = weight.group_size,
                                .out_features = weight.out_features,
                                .bias = bias,
                                .out = out};
  const auto kernel = kernels_.quant_linear[weight.format == WeightFormat::kInt8 ? 0 : 1];
  ParallelFor(NumPanels(weight.out_features), kPanelColumns * weight.packed_inputs,
              [&](int64_t begin, int64_t end, int thread) {
                kernel(args, begin, end, Scratch(thread, kLinearScratchFloats));
              });
}

void CpuBackend::Bf16DotLinear(const float* x, int64_t rows, const LinearWeight& weight,
                               const float* bias, float* out) {
  const int64_t pairs = (weight.in_features + 1) / 2;
  const auto run = [&](const uint32_t* rounded, int64_t begin, int64_t end) {
    kernels_.bf16_dot->linear({.x = rounded,
                               .rows = rows,
                               .weight = weight.data.data(),
                               .pairs = pairs,
                               .out_features = weight.out_features,
                               .bias = bias,
                               .out = out},
                              begin, end);
  };
  const int64_t panels = NumPanels(weight.out_features), cost = kPanelColumns * weight.in_features;
  if (rows == 1) {
    // Rounding one row in every thread costs less than waiting for one of them.
    ParallelFor(panels, cost, [&](int64_t begin, int64_t end, int thread) {
      auto* rounded = reinterpret_cast<uint32_t*>(Scratch(thread, pairs));
      kernels_.bf16_dot->round_rows(x, 1, weight.in_features, rounded);
      run(rounded, begin, end);
    });
    return;
  }
  auto* rounded = reinterpret_cast<uint32_t*>(
      Activations(static_cast<size_t>(rows * pairs) * sizeof(uint32_t)));
  ParallelFor(rows, weight.in_features, [&](int64_t begin, int64_t end, int) {
    kernels_.bf16_dot->round_rows(x + begin * weight.in_features, end - begin, weight.in_features,
                                  rounded + begin * pairs);
  });
  ParallelFor(panels, cost, [&](int64_t begin, int64_t end, int) { run(rounded, begin, end); });
}

}  // namespace qwenserve
