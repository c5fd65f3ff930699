#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/host_memory.h"
#include "kernels/cpu/packed_quantized.h"
#include "kernels/cpu/packed_weight.h"

namespace qwenserve {
namespace {

// Hash of what the machine's dot of bf16 pairs makes of some numbers: magnitudes close enough for
// every intermediate rounding, and the order of the two products, to show; then some whose products
// are subnormal.
uint64_t ProbeDot(const Bf16DotKernels& kernels) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  uint32_t random = 1;
  const auto next = [&random](uint32_t exponent) {
    uint32_t pair = 0;
    for (int half = 0; half < 2; ++half) {
      random = random * 1664525u + 1013904223u;
      pair = pair << 16 | (random >> 16 & 0x807fu) | (exponent + (random >> 28)) << 7;
    }
    return pair;
  };
  for (uint32_t exponent : {120u, 57u}) {
    float sums[16] = {}, results[16];
    for (int round = 0; round < 64; ++round) {
      uint32_t a[16], b[16];
      for (int i = 0; i < 16; ++i) a[i] = next(exponent), b[i] = next(exponent);
      kernels.dot(sums, a, b, results);
      std::memcpy(sums, results, sizeof sums);
      for (float result : results) {
        uint32_t bits;
        std::memcpy(&bits, &result, sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
      }
    }
  }
  return hash;
}

}  // namespace

CpuBackend::CpuBackend(const KernelTable& kernels, const CpuBackendOptions& options)
    : kernels_(kernels),
      pool_(options.num_threads, options.cpus),
      panels_(options.num_threads),
      scratch_(static_cast<size_t>(options.num_threads)),
      run_chunks_([this](int64_t chunks, absl::FunctionRef<void(int64_t)> work) {
        ParallelForDynamic(chunks, [&](int64_t i, int) { work(i); });
      }),
      shard_sampler_(kernels_, run_chunks_) {}

std::string CpuBackend::kernel_table(WeightFormat weights) const {
  std::string name = "cpu-2";
  if (weights == WeightFormat::kBf16 && bf16_pairs()) {
    const uint64_t probe = ProbeDot(*kernels_.bf16_dot);
    absl::StrAppend(&name, "-bf16dot-", absl::Hex(probe, absl::kZeroPad16));
  }
  return name;
}

absl::StatusOr<Buffer> CpuBackend::Allocate(size_t bytes) { return AllocateHostMemory(bytes); }

void CpuBackend::CopyToDevice(const void* host, size_t bytes, void* device) {
  if (bytes != 0) std::memcpy(device, host, bytes);
}

void CpuBackend::CopyToHost(const void* device, size_t bytes, void* host) {
  if (bytes != 0) std::memcpy(host, device, bytes);
}

absl::Status CpuBackend::Sync() { return absl::OkStatus(); }

void CpuBackend::ParallelFor(int64_t count, int64_t cost,
                             absl::FunctionRef<void(int64_t, int64_t, int)> work) {
  if (count <= 0) return;
  if (count * cost < kMinParallelFloats) {
    work(0, count, 0);
    return;
  }
  const int threads = pool_.num_threads();
  pool_.Run([&](int thread) {
    const WorkRange part = StaticPart(count, thread, threads);
    if (part.begin < part.end) work(part.begin, part.end, thread);
  });
}

void CpuBackend::ParallelForDynamic(int64_t count, absl::FunctionRef<void(int64_t, int)> work) {
  if (count == 1) {
    work(0, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  pool_.Run([&](int thread) {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) work(i, thread);
  });
}

float* CpuBackend::Scratch(int thread, int64_t floats) {
  // From a cache line's begin: vectors that straddle two cost double.
  constexpr size_t kLine = 64;
  std::vector<float>& memory = scratch_[thread].floats;
  const size_t needed = static_cast<size_t>(floats) + kLine / sizeof(float);
  if (memory.size() < needed) memory.resize(needed);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  return memory.data() + (kLine - address % kLine) % kLine / sizeof(float);
}

absl::StatusOr<LinearWeight> CpuBackend::PackLinear(absl::Span<const RowBlock> blocks,
                                                    int64_t in_features) {
  QS_CHECK(!blocks.empty() && in_features > 0);
  LinearWeight weight;
  weight.format = static_cast<WeightFormat>(blocks[0].dtype);
  weight.in_features = in_features;
  for (const RowBlock& block : blocks) {
    QS_CHECK(block.dtype == blocks[0].dtype && block.rows >= 0);
    QS_CHECK(block.row_stride >= in_features);
    weight.out_features += block.rows;
  }
  absl::StatusOr<Buffer> data = AllocateHostMemory(
      PackedBytes(weight.format, weight.out_features, in_features, bf16_pairs()));
  if (!data.ok()) return data.status();
  weight.data = *std::move(data);
  ParallelOwnPanels(NumPanels(weight.out_features), kPanelColumns * in_features,
                    [&](int64_t begin, int64_t end, int) {
                      PackPanels(blocks, in_features, begin, end, bf16_pairs(), weight.data.data());
                    });
  return weight;
}

absl::StatusOr<LinearWeight> CpuBackend::PackQuantized(const QuantizedShape& shape,
                                                       const QuantizedRowSource& rows) {
  QS_CHECK(IsQuantized(shape.format) && shape.out_features > 0 && shape.in_features > 0);
  QS_CHECK(shape.group_size > 0 && shape.group_size % kQuantBlock == 0);
  QS_CHECK(shape.packed_inputs() % kQuantBlock == 0);
  LinearWeight weight;
  weight.format = shape.format;
  weight.out_features = shape.out_features;
  weight.in_features = shape.in_features;
  weight.packed_inputs = shape.packed_inputs();
  weight.group_size = std::min(shape.group_size, weight.packed_inputs);
  const auto allocate = [](size_t bytes, Buffer* buffer) -> absl::Status {
    absl::StatusOr<Buffer> memory = AllocateHostMemory(bytes);
    if (memory.ok()) *buffer = *std::move(memory);
    return memory.status();
  };
  const size_t scales = static_cast<size_t>(QuantizedScaleCount(shape));
  absl::Status status = allocate(QuantizedDataBytes(shape), &weight.data);
  if (status.ok()) status = allocate(scales * sizeof(uint16_t), &weight.scales);
  if (status.ok() && shape.has_zeros) status = allocate(scales, &weight.zeros);
  const size_t order_bytes = shape.input_order.size() * sizeof(int32_t);
  if (status.ok() && order_bytes != 0) status = allocate(order_bytes, &weight.input_order);
  if (!status.ok()) return status;
  CopyToDevice(shape.input_order.data(), order_bytes, weight.input_order.data());

  std::vector<absl::Status> errors(scratch_.size());
  ParallelOwnPanels(NumPanels(weight.out_features), kPanelColumns * weight.packed_inputs,
                    [&](int64_t begin, int64_t end, int thread) {
                      errors[thread] = PackQuantizedPanels(shape, rows, begin, end, weight);
                    });
  for (absl::Status& error : errors) {
    if (!error.ok()) return std::move(error);
  }
  return weight;
}

void CpuBackend::TakeDrawn(const int32_t* drawn, int64_t rows, int32_t* ids) {
  for (int64_t r = 0; r < rows; ++r) {
    if (ids[r] < 0) ids[r] = std::max(drawn[-1 - ids[r]], 0);
  }
}

void CpuBackend::Embed(const int32_t* ids, int64_t rows, const LinearWeight& table,
                       int64_t first_id, float* out) {
  const int64_t width = table.in_features;
  ParallelFor(rows, width, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = ids[r] - first_id;
      if (row >= 0 && row < table.out_features) {
        IsQuantized(table.format) ? ReadQuantizedRow(table, row, out + r * width)
                                  : ReadPackedRow(table, row, bf16_pairs(), out + r * width);
      } else {
        std::memset(out + r * width, 0, static_cast<size_t>(width) * sizeof(float));
      }
    }
  });
}

void CpuBackend::RmsNorm(const float* x, int64_t rows, int64_t width, const float* weight,
                         float epsilon, void* out) {
  AddRmsNorm(x, rows, width, nullptr, weight, epsilon, out);
}

void CpuBackend::AddRmsNorm(const float* x, int64_t rows, int64_t width, float* residual,
                            const float* weight, float epsilon, void* out) {
  QS_CHECK(width > 0);
  float* normed = static_cast<float*>(out);
  ParallelFor(rows, width, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      kernels_.rms_norm(x + r * width, width, residual == nullptr ? nullptr : residual + r * width,
                        weight, epsilon, normed + r * width);
    }
  });
}

void CpuBackend::SiluMul(const float* gate_up, int64_t rows, int64_t width, void* out) {
  // Cut by pieces of a row, so that one row, too, is shared.
  constexpr int64_t kPiece = 512;
  const int64_t pieces = (width + kPiece - 1) / kPiece;
  ParallelFor(rows * pieces, kPiece, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / pieces, column = i % pieces * kPiece;
      const float* gate = gate_up + row * 2 * width + column;
      kernels_.silu_mul(gate, gate + width, std::min(kPiece, width - column),
                        static_cast<float*>(out) + row * width + column);
    }
  });
}

void CpuBackend::GatherRows(const void* x, int64_t width, const int32_t* rows, int64_t num_rows,
                            void* out) {
  const size_t bytes = static_cast<size_t>(width) * sizeof(float);
  for (int64_t i = 0; i < num_rows; ++i) {
    std::memcpy(static_cast<char*>(out) + static_cast<size_t>(i) * bytes,
                static_cast<const char*>(x) + static_cast<size_t>(rows[i]) * bytes, bytes);
  }
}

void CpuBackend::Sample(float* logits, int64_t stride, int64_t vocab_size,
                        absl::Span<const SampleRow> rows, int32_t* drawn, SampledToken* tokens) {
  QS_CHECK(vocab_size > 0 && vocab_size <= stride);
  const int64_t count = static_cast<int64_t>(rows.size());
  if (count < pool_.num_threads()) {
    for (int64_t i = 0; i < count; ++i) {
      tokens[i] = SampleOne(kernels_, run_chunks_, rows[i], vocab_size, logits + i * stride,
                            &scratch_[0].sample);
      if (drawn != nullptr) drawn[i] = tokens[i].id;
    }
    return;
  }
  const auto one_thread = [](int64_t chunks, absl::FunctionRef<void(int64_t)> work) {
    for (int64_t i = 0; i < chunks; ++i) work(i);
  };
  ParallelForDynamic(count, [&](int64_t i, int thread) {
    tokens[i] = SampleOne(kernels_, one_thread, rows[i], vocab_size, logits + i * stride,
                          &scratch_[thread].sample);
    if (drawn != nullptr) drawn[i] = tokens[i].id;
  });
}

absl::StatusOr<std::string> CpuIsaName(const std::string& isa) {
  absl::StatusOr<const KernelTable*> kernels = ChooseKernels(isa);
  if (!kernels.ok()) return kernels.status();
  return std::string((*kernels)->name);
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuBackendOptions& options) {
  if (options.num_threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_threads is ", options.num_threads, ", must be at least 1"));
  }
  if (!options.cpus.empty() && options.cpus.size() != static_cast<size_t>(options.num_threads)) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.cpus.size(), " cpus to pin for ", options.num_threads, " threads"));
  }
  absl::StatusOr<const KernelTable*> kernels = ChooseKernels(options.isa);
  if (!kernels.ok()) return kernels.status();
  return std::make_unique<CpuBackend>(**kernels, options);
}

}  // namespace qwenserve
