// The matrix products of CpuBackend: how they are cut for the threads.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_weight.h"

namespace qwenserve {
namespace {

constexpr size_t kAlignment = 64;

size_t RoundUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Room for `bytes` in memory that grows as needed, aligned for vectors.
char* Align(std::vector<char>& memory, size_t bytes) {
  if (memory.size() < bytes + kAlignment) memory.resize(bytes + kAlignment);
  const auto start = reinterpret_cast<uintptr_t>(memory.data());
  return memory.data() + (RoundUp(start) - start);
}

// Kernels work on two panels at a time.
constexpr int64_t kPanelUnit = 2;

}  // namespace

void CpuBackend::ParallelPanels(int64_t panels, int64_t cost, absl::FunctionRef<void(int)> prepare,
                                absl::FunctionRef<void(int64_t, int64_t, int)> work) {
  if (panels * cost < kMinParallelFloats) {
    prepare(0);
    work(0, panels, 0);
    return;
  }
  panels_.Start(panels, kPanelUnit);
  pool_.Run([&](int thread) {
    prepare(thread);
    for (WorkRange piece = panels_.Next(thread); piece.begin < piece.end;
         piece = panels_.Next(thread)) {
      work(piece.begin, piece.end, thread);
    }
  });
}

void CpuBackend::ParallelOwnPanels(int64_t panels, int64_t cost,
                                   absl::FunctionRef<void(int64_t, int64_t, int)> work) {
  ParallelFor((panels + kPanelUnit - 1) / kPanelUnit, cost * kPanelUnit,
              [&](int64_t begin, int64_t end, int thread) {
                work(begin * kPanelUnit, std::min(end * kPanelUnit, panels), thread);
              });
}

void CpuBackend::Linear(const void* input, int64_t rows, const LinearWeight& weight,
                        const float* bias, float* out) {
  const float* x = static_cast<const float*>(input);
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
  ParallelPanels(
      NumPanels(weight.out_features), kPanelColumns * weight.in_features, [](int) {},
      [&](int64_t begin, int64_t end, int thread) {
        kernel(args, begin, end, Scratch(thread, kLinearScratchFloats));
      });
}

void CpuBackend::QuantLinear(const float* x, int64_t rows, const LinearWeight& weight,
                             const float* bias, float* out) {
  const int64_t blocks = weight.packed_inputs / kQuantBlock;
  const int64_t groups = (weight.packed_inputs + weight.group_size - 1) / weight.group_size;
  const size_t codes = RoundUp(static_cast<size_t>(rows * weight.packed_inputs));
  const size_t bytes = codes + static_cast<size_t>((2 * blocks + groups) * rows) * sizeof(float);
  const auto quantize_args = [&](char* memory) {
    QuantActivations rounded;
    rounded.codes = reinterpret_cast<int8_t*>(memory);
    rounded.scales = reinterpret_cast<float*>(memory + codes);
    rounded.sums = rounded.scales + blocks * rows;
    rounded.code_sums = reinterpret_cast<int32_t*>(rounded.sums + groups * rows);
    rounded.rows = rows;
    return QuantizeArgs{.x = x,
                        .in_features = weight.in_features,
                        .input_order = weight.input_order.as<int32_t>(),
                        .packed_inputs = weight.packed_inputs,
                        .group_size = weight.group_size,
                        .out = rounded};
  };
  const auto kernel = kernels_.quant_linear[weight.format == WeightFormat::kInt8 ? 0 : 1];
  const auto run = [&](const QuantActivations& rounded, int64_t begin, int64_t end, int thread) {
    kernel({.x = rounded,
            .weight = weight.data.data(),
            .scales = weight.scales.as<uint16_t>(),
            .zeros = weight.zeros.as<uint8_t>(),
            .packed_inputs = weight.packed_inputs,
            .group_size = weight.group_size,
            .out_features = weight.out_features,
            .bias = bias,
            .out = out},
           begin, end, Scratch(thread, kLinearScratchFloats));
  };
  const int64_t panels = NumPanels(weight.out_features);
  const int64_t cost = kPanelColumns * weight.packed_inputs;
  if (rows == 1) {
    // Rounding one row in every thread costs less than waiting for one of them.
    const auto rounded = [&](int thread) {
      return quantize_args(Align(scratch_[thread].rounded, bytes));
    };
    ParallelPanels(
        panels, cost, [&](int thread) { kernels_.quantize_rows(rounded(thread), 0, 1); },
        [&](int64_t begin, int64_t end, int thread) {
          run(rounded(thread).out, begin, end, thread);
        });
    return;
  }
  const QuantizeArgs args = quantize_args(Align(rounded_, bytes));
  ParallelFor(rows, weight.packed_inputs,
              [&](int64_t begin, int64_t end, int) { kernels_.quantize_rows(args, begin, end); });
  ParallelPanels(
      panels, cost, [](int) {},
      [&](int64_t begin, int64_t end, int thread) { run(args.out, begin, end, thread); });
}

void CpuBackend::Bf16DotLinear(const float* x, int64_t rows, const LinearWeight& weight,
                               const float* bias, float* out) {
  const int64_t pairs = (weight.in_features + 1) / 2;
  const size_t bytes = static_cast<size_t>(rows * pairs) * sizeof(uint32_t);
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
    const auto rounded = [&](int thread) {
      return reinterpret_cast<uint32_t*>(Align(scratch_[thread].rounded, bytes));
    };
    ParallelPanels(
        panels, cost,
        [&](int thread) {
          kernels_.bf16_dot->round_rows(x, 1, weight.in_features, rounded(thread));
        },
        [&](int64_t begin, int64_t end, int thread) { run(rounded(thread), begin, end); });
    return;
  }
  auto* rounded = reinterpret_cast<uint32_t*>(Align(rounded_, bytes));
  ParallelFor(rows, weight.in_features, [&](int64_t begin, int64_t end, int) {
    kernels_.bf16_dot->round_rows(x + begin * weight.in_features, end - begin, weight.in_features,
                                  rounded + begin * pairs);
  });
  ParallelPanels(
      panels, cost, [](int) {}, [&](int64_t begin, int64_t end, int) { run(rounded, begin, end); });
}

}  // namespace qwenserve
